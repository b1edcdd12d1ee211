"""How a small random model of transformers is made: two layers, width 64, four heads, a vocabulary of 100."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.coverage.cases import Builder, Built
from torch import Tensor

BATCH, TOKENS, VOCABULARY = 2, 16, 100
# Set where the configuration knows the word, under its own name for it.
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
Config = dict[str, Any]


def ids(tokens: int = TOKENS) -> Tensor:
    """Random tokens, none of them special."""
    return torch.randint(3, VOCABULARY, (BATCH, tokens))


def text_inputs(tokens: int = TOKENS) -> dict[str, Any]:
    """Tokens, all of them attended to."""
    return {"input_ids": ids(tokens), "attention_mask": torch.ones(BATCH, tokens, dtype=torch.long)}


def causal_inputs() -> dict[str, Any]:
    """Tokens for a decoder that keeps nothing for the next call."""
    return {"input_ids": ids(), "use_cache": False}


def pair_inputs() -> dict[str, Any]:
    """Tokens for an encoder and for a decoder."""
    return {**text_inputs(), "decoder_input_ids": ids(), "use_cache": False}


def image_inputs(extent: int = 64) -> dict[str, Any]:
    """Random images."""
    return {"pixel_values": torch.randn(BATCH, 3, extent, extent)}


def sound_inputs(samples: int = 4000) -> dict[str, Any]:
    """Random waveforms."""
    return {"input_values": torch.randn(BATCH, samples)}


def build(model: str, inputs: Callable[[], dict[str, Any]], config: Config) -> Built:
    """Build a model from its small configuration and draw inputs for it."""
    import transformers

    transformers.logging.set_verbosity_error()
    cls = getattr(transformers, model)
    settings = cls.config_class
    return cls(settings(num_labels=10, **{**_known(settings), **config})).eval(), (), inputs()


def _known(settings: Any) -> Config:
    """Return what the configuration knows of `SMALL`; a number per stage is left to the case."""
    fields = settings.__dataclass_fields__
    own = {name: settings.attribute_map.get(name, name) for name in SMALL}
    return {
        own[name]: value
        for name, value in SMALL.items()
        if own[name] in fields and not isinstance(fields[own[name]].default, (list, tuple))
    }


def cases(inputs: Callable[[], dict[str, Any]], models: dict[str, tuple[str, Config]]) -> dict[str, Builder]:
    """Give a table of models the same inputs."""
    return {name: partial(build, model, inputs, config) for name, (model, config) in models.items()}
