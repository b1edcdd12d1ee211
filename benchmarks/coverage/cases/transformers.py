"""transformers: architectures in small random configurations."""

from __future__ import annotations

from benchmarks.coverage.cases import Builder, transformers_images, transformers_senses, transformers_text

CASES: dict[str, Builder] = {**transformers_text.CASES, **transformers_images.CASES, **transformers_senses.CASES}
