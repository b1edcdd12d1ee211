"""transformers: models of sound, of several senses at once, of films and of time series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from benchmarks.coverage.cases import Builder
from benchmarks.coverage.cases.small import BATCH, cases, ids, image_inputs, sound_inputs, text_inputs

SEVEN = {"conv_dim": [32] * 7}  # narrow like the rest: by default the convolutions hold most parameters
WAVES = {
    "data2vec_audio": ("Data2VecAudioForCTC", SEVEN),
    "hubert": ("HubertForCTC", SEVEN),
    "sew": ("SEWForCTC", {}),
    "sew_d": ("SEWDForCTC", {}),
    "unispeech": ("UniSpeechForCTC", SEVEN),
    "unispeech_sat": ("UniSpeechSatForCTC", SEVEN),
    "wav2vec2": ("Wav2Vec2ForCTC", SEVEN),
    "wav2vec2_conformer": ("Wav2Vec2ConformerForCTC", SEVEN),
    "wavlm": ("WavLMForCTC", SEVEN),
}
NO_MASKING = {"apply_spec_augment": False}  # it masks longer spans than the examples have, in training
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TWO_TOWERS = {"text_config": TEXT, "vision_config": VISION}


def text_and_image() -> dict[str, Any]:
    """Tokens and images."""
    return {**text_inputs(), **image_inputs(32)}


def spectrum(name: str, *shape: int, **more: Any) -> Callable[[], dict[str, Any]]:
    """Random floats under a name of its own, and whatever else there is."""
    return lambda: {name: torch.randn(BATCH, *shape), **more}


def speech_pair(bins: int, frames: int, frames_first: bool) -> Callable[[], dict[str, Any]]:
    """A spectrogram for an encoder and tokens for a decoder."""
    shape = (frames, bins) if frames_first else (bins, frames)
    return lambda: {"input_features": torch.randn(BATCH, *shape), "decoder_input_ids": ids(), "use_cache": False}


def series() -> dict[str, Any]:
    """A past of 24 steps with a time feature, and a future of 8, which the decoder is given."""
    past, future = (BATCH, 24), (BATCH, 8)
    return {
        "past_values": torch.randn(past),
        "past_time_features": torch.randn(*past, 1),
        "past_observed_mask": torch.ones(past),
        "future_values": torch.randn(future),
        "future_time_features": torch.randn(*future, 1),
        "use_cache": False,
    }


FORECAST = {
    "prediction_length": 8,
    "context_length": 16,
    "lags_sequence": [1, 2, 4, 8],
    "num_time_features": 1,
    "num_static_categorical_features": 0,
    "cardinality": [],
    "embedding_dimension": [],
}
PATCHES = {"context_length": 32, "patch_length": 8, "prediction_length": 8, "num_input_channels": 3}
OTHERS: dict[str, Builder] = {
    **cases(lambda: {**text_and_image(), "use_cache": False}, {"git": ("GitForCausalLM", {"vision_config": VISION})}),
    **cases(
        text_and_image,
        {
            "altclip": ("AltCLIPModel", {"text_config": {**TEXT, "project_dim": 64}, "vision_config": VISION}),
            "blip": ("BlipForImageTextRetrieval", TWO_TOWERS),
            "bridgetower": ("BridgeTowerModel", {"text_config": TEXT, "vision_config": {**VISION, "patch_size": 8}}),
            "chinese_clip": ("ChineseCLIPModel", TWO_TOWERS),
            "clip": ("CLIPModel", TWO_TOWERS),
            "clipseg": ("CLIPSegModel", TWO_TOWERS),
            "flava": ("FlavaModel", {"text_config": TEXT, "image_config": VISION, "multimodal_config": VISION}),
            "groupvit": ("GroupViTModel", {"text_config": TEXT, "vision_config": {"image_size": 32, "patch_size": 4}}),
            "metaclip_2": ("MetaClip2Model", TWO_TOWERS),
            "siglip": ("SiglipModel", TWO_TOWERS),
            "vilt": ("ViltModel", {"image_size": 32, "patch_size": 8}),
        },
    ),
    **cases(
        lambda: {**text_inputs(), "bbox": torch.zeros(BATCH, 16, 4, dtype=torch.long)},
        {
            "layoutlmv3": (
                "LayoutLMv3ForSequenceClassification",
                {"visual_embed": False, "coordinate_size": 10, "shape_size": 12},
            ),
            "bros": ("BrosModel", {}),
        },
    ),
    **cases(
        lambda: {**text_inputs(), "visual_feats": torch.randn(BATCH, 4, 32), "visual_pos": torch.rand(BATCH, 4, 4)},
        {
            "lxmert": ("LxmertModel", {"visual_feat_dim": 32, "l_layers": 2, "x_layers": 1, "r_layers": 1}),
        },
    ),
    **cases(
        lambda: {**text_inputs(), "visual_embeds": torch.randn(BATCH, 4, 32)},
        {
            "visual_bert": ("VisualBertModel", {"visual_embedding_dim": 32}),
        },
    ),
    **cases(
        lambda: text_inputs(64),
        {
            "canine": (
                "CanineForSequenceClassification",
                {"local_transformer_stride": 16, "num_hash_buckets": 64, "max_position_embeddings": 128},
            ),
            "reformer": (
                "ReformerForSequenceClassification",
                {
                    "attention_head_size": 16,
                    "axial_pos_shape": [8, 8],
                    "axial_pos_embds_dim": [32, 32],
                    "num_buckets": 4,
                    "attn_layers": ["local", "lsh"],
                    "feed_forward_size": 128,
                    "lsh_attn_chunk_length": 16,
                    "local_attn_chunk_length": 16,
                    "hash_seed": 0,
                },
            ),
        },
    ),
    **cases(
        lambda: {"inputs": ids()},
        {
            "perceiver": (
                "PerceiverForMaskedLM",
                {
                    "num_latents": 8,
                    "d_latents": 64,
                    "num_self_attends_per_block": 2,
                    "num_self_attention_heads": 4,
                    "num_cross_attention_heads": 4,
                    "vocab_size": 100,
                },
            ),
        },
    ),
    **cases(
        spectrum("input_values", 64, 32),
        {
            "audio_spectrogram_transformer": ("ASTForAudioClassification", {"num_mel_bins": 32, "max_length": 64}),
        },
    ),
    **cases(
        spectrum("input_values", 1, 4000),
        {
            "encodec": ("EncodecModel", {}),
            "mimi": (
                "MimiModel",
                {
                    "upsample_groups": 64,
                    "vector_quantization_hidden_dimension": 32,
                    "codebook_dim": 32,
                    "num_key_value_heads": 4,
                },
            ),
            "dac": ("DacModel", {"encoder_hidden_size": 8, "decoder_hidden_size": 64}),
        },
    ),
    **cases(spectrum("input_features", 64, 160), {"wav2vec2_bert": ("Wav2Vec2BertForCTC", NO_MASKING)}),
    **cases(
        speech_pair(80, 64, frames_first=False),
        {"whisper": ("WhisperForConditionalGeneration", {"max_source_positions": 32})},
    ),
    **cases(
        speech_pair(80, 64, frames_first=True),
        {"speech_to_text": ("Speech2TextForConditionalGeneration", {"conv_channels": 32})},
    ),
    **cases(
        lambda: {**sound_inputs(), "decoder_input_ids": ids(), "use_cache": False},
        {
            "moonshine": (
                "MoonshineForConditionalGeneration",
                {
                    "encoder_num_hidden_layers": 2,
                    "decoder_num_hidden_layers": 2,
                    "encoder_num_attention_heads": 4,
                    "decoder_num_attention_heads": 4,
                },
            ),
            "speecht5": ("SpeechT5ForSpeechToText", NO_MASKING),
        },
    ),
    **cases(
        spectrum("past_values", 32, 3),
        {
            "patchtst": ("PatchTSTForPrediction", {**PATCHES, "patch_stride": 8, "ffn_dim": 128}),
            "patchtsmixer": ("PatchTSMixerForPrediction", {**PATCHES, "patch_stride": 8}),
        },
    ),
    **cases(
        series,
        {
            "autoformer": ("AutoformerForPrediction", {**FORECAST, "label_length": 4, "moving_average": 5}),
            "informer": ("InformerForPrediction", FORECAST),
            "time_series_transformer": ("TimeSeriesTransformerForPrediction", FORECAST),
        },
    ),
    **cases(
        spectrum("pixel_values", 4, 3, 32, 32),
        {
            "timesformer": ("TimesformerForVideoClassification", {"image_size": 32, "num_frames": 4, "patch_size": 8}),
            "videomae": ("VideoMAEForVideoClassification", {"image_size": 32, "num_frames": 4, "patch_size": 8}),
            "vivit": ("VivitForVideoClassification", {"image_size": 32, "num_frames": 4, "tubelet_size": [2, 8, 8]}),
        },
    ),
    **cases(
        spectrum("pixel_values_videos", 4, 3, 32, 32),
        {
            "vjepa2": ("VJEPA2Model", {"crop_size": 32, "frames_per_clip": 4, "patch_size": 8}),
        },
    ),
}

CASES: dict[str, Builder] = {
    **cases(sound_inputs, {name: (model, {**NO_MASKING, **config}) for name, (model, config) in WAVES.items()}),
    **OTHERS,
}
