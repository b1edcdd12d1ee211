"""The facts of one run, as `report.json` holds them: the schema, its check, and its JSON schema.

Every other file of this room reads these records and nothing else.
Fractions (accuracy, sparsity) lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunus.errors import InputError

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    """A part of the facts: unknown keys and non-finite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Latency(_Record):
    """Measured time of one forward pass of one batch, in milliseconds."""

    median_ms: Amount
    p90_ms: Amount
    batch: Count
    threads: Count
    runtime: str
    ratio_to_dense: Amount | None = Field(
        default=None,
        description="dense time / this time, the median over pairs measured alternately in one run",
    )


class Metrics(_Record):
    """Metrics by name on each split; `test` is null where there was no test split."""

    validation: dict[str, float]
    test: dict[str, float] | None = None


class Measures(_Record):
    """Everything measured of one model; null is `not measured`."""

    parameters: Count = Field(description="elements of all parameters; tied tensors once; biases and norms are in")
    nonzeros: Count = Field(description="parameters that are not exactly zero")
    macs: Count = Field(description="multiply-accumulates of one forward pass of one example")
    effective_macs: Amount | None = Field(default=None, description="MACs that do not meet a zero weight")
    weight_bytes: Count | None = None
    file_bytes: Count | None = Field(default=None, description="size of the model as a safetensors file")
    peak_activation_bytes: Count | None = None
    energy_joules: Amount | None = Field(default=None, description="by the 45 nm table; see `assumptions`")
    latency: Latency | None = None
    metrics: Metrics


class Data(_Record):
    """The data set: its name and the number of examples per split."""

    name: str
    sizes: dict[Literal["train", "validation", "test"], Count | None] = Field(default_factory=dict)


class Model(_Record):
    """The model's name."""

    name: str


class Proof(_Record):
    """How far the thinned model is from the masked one."""

    max_abs: Amount
    max_rel: Amount
    generic: Amount | None = Field(default=None, description="max_rel with random weights; null: they overflowed")
    form: Literal["class", "graph"] | None = Field(
        default=None, description="whether the result is the user's own class or, where that cannot follow, its graph"
    )
    tolerance: Amount
    dtype: str
    passed: bool


class Sensitivity(_Record):
    """One metric per target and level; each target was pruned alone, from the trained model."""

    metric: str
    split: str
    granularity: str
    criterion: str | None = None
    levels: list[Fraction]
    curves: dict[str, list[float | None]]
    dense: float


class Epoch(_Record):
    """One epoch of one stage."""

    stage: Literal["train", "prune", "fine_tune"]
    epoch: Count
    loss: float | None = None
    terms: dict[str, float] = Field(default_factory=dict, description="regularizers: mean of each term over the epoch")
    lr: float | None = None
    seconds: Amount | None = None
    validation: dict[str, float] = Field(default_factory=dict)
    sparsity: Fraction | None = None
    macs: Amount | None = None


class Kept(_Record):
    """One prunable group: its size and how many of its units are left."""

    name: str
    kind: str
    size: Count
    kept: Count


class Mask(_Record):
    """One masked parameter of the pruned model."""

    name: str
    shape: list[Count]
    sparsity: Fraction


class Frozen(_Record):
    """An axis that could not be pruned, and why."""

    name: str
    dim: int | None = None
    reason: str


class Baseline(_Record):
    """A control of the same size in the same run, such as random pruning."""

    name: str
    metrics: Metrics
    macs: Count | None = None
    parameters: Count | None = None


class Facts(_Record):
    """The facts of one run."""

    schema_: Literal["prunus-report/1"] = Field(alias="schema")
    name: str
    created: str = Field(description="ISO 8601, with the offset from UTC")
    recipe: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=list)
    model: Model
    data: Data
    dense: Measures
    pruned: Measures
    ratio: dict[str, float | None] = Field(default_factory=dict, description="dense / pruned; computed")
    difference: dict[str, float | None] = Field(default_factory=dict, description="pruned - dense; computed")
    proof: Proof | None = None
    sensitivity: Sensitivity | None = None
    history: list[Epoch] = Field(default_factory=list)
    groups: list[Kept] = Field(default_factory=list)
    masks: list[Mask] = Field(default_factory=list)
    frozen: list[Frozen] = Field(default_factory=list)
    baselines: list[Baseline] = Field(default_factory=list)
    assumptions: dict[str, str] = Field(default_factory=dict, description="quantity -> how it was counted")
    artifacts: dict[str, str] = Field(default_factory=dict, description="what -> file, relative to the report")
    verdict: list[str] = Field(default_factory=list, description="sentences; computed")


def validate(facts: Mapping[str, Any]) -> Facts:
    """Check facts against the schema and return them as records.

    Raises InputError with the path of the first fault, what was there and what is wanted.
    """
    try:
        return Facts.model_validate(dict(facts))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "the facts"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(
            f"report facts: {path}: got {_short(first['input'])}: {first['msg']}{more}; see docs/report.md"
        ) from error


def as_plain(facts: Facts) -> dict[str, Any]:
    """Records back to plain JSON values, in the order of the schema."""
    return facts.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, Any]:
    """The JSON schema of `report.json`, as in docs/report.schema.json."""
    return Facts.model_json_schema(by_alias=True)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
