"""timm: at least one model of each of its modules, the smallest that is not made for tests, on small images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from benchmarks.coverage.cases import Builder, Built

# Images of 64 x 64.
ANY_SIZE = """
caformer_s18 convformer_s18 convmixer_768_32 convnext_atto convnext_zepto_rms convnextv2_atto cpubone_nano
crossvit_tiny_240 cs3darknet_focus_s csatv2 cspnext_tiny cspresnet50 darknet17 davit_tiny densenet121
densenetblur121d dla46_c dla60_res2net dla60x_c dm_nfnet_f0 dpn48b dpn68 eca_vovnet39b ecaresnet26t
edgenext_xx_small efficientnet_b0 efficientnet_lite0 efficientnetv2_rw_t efficientvim_m1 efficientvit_b0
efficientvit_l1 ese_vovnet19b_slim_dw fasternet_t0 fastvit_sa12 fastvit_t8 fbnetv3_b focalnet_tiny_srf
ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hieradet_small hrnet_w18_small
iformer_t inception_next_atto lcnet_035 lcnetv2_small legacy_seresnet18 legacy_seresnext26_32x4d legacy_xception
lowformer_b0 mambaout_femto mixnet_s mnasnet_small mobilenetv2_050 mobilenetv3_small_050
mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium mobilenetv5_300m nasnetalarge nextvit_small nf_regnet_b0
nf_resnet26 pnasnet5large poolformer_s12 poolformerv2_s12 pvt_v2_b0 pvt_v2_b2_li rdnet_tiny regnetx_002
regnety_002 repghostnet_050 res2net50_26w_4s res2next50 resnest14d resnest50d_1s4x24d resnet10t resnet18 resnet50
resnetaa50 resnetrs50 resnetv2_18 resnetv2_50x1_bit resnext50_32x4d rexnet_100 rexnetr_100 sam2_hiera_tiny
selecsls42 seresnet50 shvit_s1 skresnet18 skresnext50_32x4d starnet_s1 tiny_vit_5m_224 tinynet_e tresnet_m vgg11
vgg11_bn vovnet39a xception41 xception41p
"""
# Images of 64 x 64, which the model has to be told.
OWN_SIZE = """
coat_lite_tiny coat_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convit_tiny
deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 eca_botnext26ts_256 efficientformerv2_s0 efficientvit_m0
eva02_tiny_patch14_224 gcvit_xxtiny gernet_s gmixer_12_224 gmlp_ti16_224 hiera_tiny_224 lambda_resnet26t
levit_128s levit_conv_128s maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s16_224 mobileone_s1 mobilevit_xxs
mobilevitv2_050 mvitv2_tiny nest_tiny pit_ti_224 pit_ti_distilled_224 regnetz_b16 repvgg_a0 repvit_m1 resmlp_12_224
resnet51q sequencer2d_s swiftformer_xs swin_s3_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 tnt_s_patch16_224 twins_pcpvt_small twins_svt_small visformer_tiny
vit_pe_core_tiny_patch16_384 vit_relpos_small_patch16_224 vit_small_patch16_dinov3 vit_srelpos_small_patch16_224
vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
xcit_nano_12_p16_224
"""
# name -> (extent of the image, arguments): models that take no small image, or whose smallest member is deep.
OTHERS: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "beitv2_base_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "cait_xxs24_224": (64, {"img_size": 64, "depth": 4}),
    "deepseek_vit_412m": (224, {"img_size": 224, "depth": 2}),
    "deit3_small_patch16_224": (64, {"img_size": 64, "depth": 4}),
    "efficientformer_l1": (224, {}),
    "gemma4_vit_167m": (64, {"img_size": 64, "depth": 2}),
    "halonet_h1": (256, {}),
    "inception_resnet_v2": (96, {}),
    "inception_v3": (96, {}),
    "inception_v4": (96, {}),
    "naflexvit_base_patch16_gap": (64, {"img_size": 64, "depth": 2}),
    "qwen3_vit_88m": (64, {"img_size": 64, "depth": 2}),
    "samvit_base_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "vit_base_patch16_siglip_224": (64, {"img_size": 64, "depth": 2}),
}
SPECS: dict[str, tuple[int, dict[str, Any]]] = {
    **dict.fromkeys(ANY_SIZE.split(), (64, {})),
    **dict.fromkeys(OWN_SIZE.split(), (64, {"img_size": 64})),
    **OTHERS,
}


def build(name: str, extent: int, arguments: dict[str, Any]) -> Built:
    """Build a model without weights, of ten classes, and two random images."""
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=10, **arguments).eval()
    return model, (torch.randn(2, 3, extent, extent),), {}


CASES: dict[str, Builder] = {name: partial(build, name, *spec) for name, spec in sorted(SPECS.items())}
