"""transformers: models of images, and detectors."""

from __future__ import annotations

from benchmarks.coverage.cases import Builder
from benchmarks.coverage.cases.small import cases, image_inputs

STAGES = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 4]}
IMAGES = {
    "beit": ("BeitForImageClassification", {"image_size": 64}),
    "bit": (
        "BitForImageClassification",
        {"embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 1], "num_groups": 8},
    ),
    "convnext": (
        "ConvNextForImageClassification",
        {"num_stages": 4, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    ),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        {"num_stages": 4, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    ),
    "cvt": (
        "CvtForImageClassification",
        {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    ),
    "data2vec_vision": ("Data2VecVisionForImageClassification", {"image_size": 64}),
    "deit": ("DeiTForImageClassification", {"image_size": 64}),
    "dinov2": ("Dinov2ForImageClassification", {"image_size": 64, "patch_size": 16}),
    "dinov2_with_registers": ("Dinov2WithRegistersForImageClassification", {"image_size": 64, "patch_size": 16}),
    "dinov3_vit": ("DINOv3ViTModel", {"image_size": 64}),
    "dinov3_convnext": ("DINOv3ConvNextModel", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}),
    "dpt": (
        "DPTForDepthEstimation",
        {
            "image_size": 64,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 32, 64, 64],
            "fusion_hidden_size": 32,
            "is_hybrid": False,
        },
    ),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
    ),
    "focalnet": (
        "FocalNetForImageClassification",
        {"embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
    ),
    "glpn": (
        "GLPNForDepthEstimation",
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 64, 64],
            "num_attention_heads": [1, 2, 4, 4],
            "decoder_hidden_size": 32,
        },
    ),
    "hiera": (
        "HieraForImageClassification",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
    ),
    "ijepa": ("IJepaForImageClassification", {"image_size": 64}),
    "levit": (
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}),
    "mobilevit": (
        "MobileViTForImageClassification",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 32, 32, 48, 64, 128]},
    ),
    "mobilevitv2": ("MobileViTV2ForImageClassification", {"image_size": 64, "width_multiplier": 0.25}),
    "poolformer": ("PoolFormerForImageClassification", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}),
    "pvt": (
        "PvtForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 64, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 4, 4],
        },
    ),
    "pvt_v2": (
        "PvtV2ForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 64, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 4, 4],
        },
    ),
    "regnet": (
        "RegNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "groups_width": 8},
    ),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}),
    "segformer": ("SegformerForSemanticSegmentation", {"depths": [1, 1, 1, 1]}),
    "swiftformer": (
        "SwiftFormerForImageClassification",
        {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 64]},
    ),
    "swin": ("SwinForImageClassification", {**STAGES, "image_size": 64, "window_size": 4}),
    "swinv2": ("Swinv2ForImageClassification", {**STAGES, "image_size": 64, "window_size": 4}),
    "swin2sr": ("Swin2SRForImageSuperResolution", {**STAGES, "image_size": 64, "window_size": 4}),
    "textnet": ("TextNetForImageClassification", {}),
    "upernet": ("UperNetForSemanticSegmentation", {"hidden_size": 32, "use_auxiliary_head": False}),
    "vit": ("ViTForImageClassification", {"image_size": 64}),
    "vit_msn": ("ViTMSNForImageClassification", {"image_size": 64}),
    "vitdet": ("VitDetModel", {"image_size": 64, "pretrain_image_size": 64}),
}
DETECTORS = {
    "conditional_detr": ("ConditionalDetrForObjectDetection", {}),
    "deformable_detr": ("DeformableDetrForObjectDetection", {}),
    "detr": ("DetrForObjectDetection", {}),
    "rt_detr": ("RTDetrForObjectDetection", {"num_queries": 10}),
    "table_transformer": ("TableTransformerForObjectDetection", {}),
    "yolos": ("YolosForObjectDetection", {"image_size": [64, 64], "num_detection_tokens": 10}),
    "mask2former": ("Mask2FormerForUniversalSegmentation", {}),
}

CASES: dict[str, Builder] = cases(image_inputs, {**IMAGES, **DETECTORS})
