"""What a recipe may say. The words are the same in YAML, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from prunus.axes import Inexact
from prunus.errors import InputError
from prunus.quality import Mode
from prunus.recipes import words

VERSION = 1


class _Part(BaseModel):
    """A part of a recipe: unknown keys are errors, values cannot be changed, `"5"` is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Factory(_Part):
    """A function to call: `package.module:function` or `file.py:function`, and its arguments."""

    factory: Annotated[str, BeforeValidator(words.factory)]
    args: dict[str, Any] = {}


class Optimizer(BaseModel):
    """Any class of torch.optim by its name; further keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _check(self) -> Optimizer:
        words.optimizer(self.name, self.arguments)
        return self


class LrSchedule(BaseModel):
    """constant, cosine, step, one_cycle or a class of torch.optim.lr_scheduler; further keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())
    name: str = "constant"

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _check(self) -> LrSchedule:
        words.lr_schedule(self.name, self.arguments)
        return self


_NamedJson = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["name"]}]}
OptimizerField = Annotated[
    Optimizer, BeforeValidator(words.short_form("name", "a name, such as adam")), WithJsonSchema(_NamedJson)
]
LrScheduleField = Annotated[
    LrSchedule, BeforeValidator(words.short_form("name", "a name, such as cosine")), WithJsonSchema(_NamedJson)
]
FactoryField = Annotated[
    Factory,
    BeforeValidator(words.short_form("factory", "module:function")),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["factory"]}]}),
]
Epochs = Annotated[int, Field(ge=0)]
Precision = Literal["float32", "bfloat16"]
_TEXT_OR_MAP: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object"}]}
_TEXT_MAP_OR_LIST: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "array"}]}
Targets = Annotated[Any, BeforeValidator(words.targets), WithJsonSchema(_TEXT_MAP_OR_LIST)]
Granularity = Annotated[str, BeforeValidator(words.granularity)]
Criterion = Annotated[str, BeforeValidator(words.criterion)]
Solver = Annotated[str, BeforeValidator(words.solver)]
BudgetField = Annotated[str, BeforeValidator(words.budget), WithJsonSchema(_TEXT_OR_MAP)]


RegularizerField = Annotated[Any, BeforeValidator(words.regularizer), WithJsonSchema(_TEXT_OR_MAP)]


class Loop(_Part):
    """A training loop: how long, with which optimizer, at which rate."""

    epochs: Epochs = 0
    optimizer: OptimizerField | None = Field(default=None, description="default: adam, or the training's with lr / 10")
    lr_schedule: LrScheduleField = LrSchedule()
    precision: Precision = "float32"


class RegularizedLoop(Loop):
    """A training loop whose loss may have more terms, which make units small before they are pruned."""

    regularizers: list[RegularizerField] = Field(
        default=[], description="terms of the loss, each logged by its name: group_lasso(1e-4), bn_l1(1e-4), …"
    )

    @model_validator(mode="after")
    def _check_names(self) -> RegularizedLoop:
        words.regularizers(self.regularizers)
        return self


class Sensitivity(_Part):
    """Which targets bear pruning: each alone, at each level, judged on validation data."""

    levels: Annotated[list[Annotated[float, BeforeValidator(words.ratio)]], Field(min_length=1)] = [0.3, 0.5, 0.7]
    granularity: Granularity = "filter"
    criterion: Criterion = "l1"
    targets: Targets = "*"
    max_drop: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="what each target alone may lose of the metric, for the schedule that is written"
    )
    target: BudgetField | None = Field(
        default=None, description="or the budget that the schedule meets: macs=0.5, params=0.4, sparsity=0.9"
    )
    latency: Annotated[str, BeforeValidator(words.timed_on)] | None = Field(
        default=None, description="where the page estimates the latency: torch, onnxruntime, table:file.csv"
    )

    @model_validator(mode="after")
    def _check(self) -> Sensitivity:
        if self.max_drop is not None and self.target is not None:
            raise InputError("give either max_drop or target: how much may be lost, or how much has to go")
        budgeted = words.budget_device(self.target)
        if None not in (self.latency, budgeted) and self.latency != budgeted:
            raise InputError(f"target is a latency on {budgeted}, but latency is {self.latency}; name the same device")
        if self.timed_on is not None:
            words.shrinks(self.granularity)
        return self

    @property
    def timed_on(self) -> str | None:
        """Where latency is estimated, for the page or for the budget."""
        return self.latency or words.budget_device(self.target)


class Policy(_Part):
    """What is pruned together, by which criterion, how much from each, and when."""

    name: str | None = None
    targets: Targets = "*"
    granularity: Granularity
    criterion: Criterion = "l1"
    allocation: Annotated[Any, BeforeValidator(words.allocation), WithJsonSchema(_TEXT_OR_MAP)] = "uniform"
    schedule: Annotated[Any, BeforeValidator(words.schedule), WithJsonSchema(_TEXT_OR_MAP)]
    solver: Solver | None = Field(default=None, description="mend what is left at once: lstsq, admm, sparsegpt, …")
    round_to: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"] | None, BeforeValidator(words.round_to)] = Field(
        default=None, description="what kept counts are multiples of; auto: of kernels' steps, default for a latency"
    )
    max_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    target: BudgetField | None = Field(
        default=None, description="what it may cost in the end, instead of schedule.final: macs=0.5, latency=0.6@torch"
    )

    @model_validator(mode="after")
    def _check(self) -> Policy:
        words.policy(self.plain())
        return self

    def plain(self) -> dict[str, Any]:
        """Plain values, without those that were not given."""
        return dict(self.model_dump(exclude_none=True))


class Guard(_Part):
    """Keep the last state whose validation metric is at most `max_drop` worse than the dense model's."""

    metric: str = "top1"
    max_drop: Annotated[float, Field(ge=0)]
    mode: Mode = "max"


class Prune(RegularizedLoop):
    """The fine-tuning loop during which the policies prune."""

    epochs: Annotated[int, Field(ge=1)] = 1
    policies: Annotated[list[Policy], Field(min_length=1)]
    stop: list[Annotated[dict[str, Any], BeforeValidator(words.stop)]] = []
    guard: Guard | None = None
    inexact: Annotated[Inexact, BeforeValidator(words.inexact)] = Field(
        default="forbid", description="where a statistic counts the units: keep them all, or what may happen"
    )
    calibration: Annotated[int, Field(ge=1)] = Field(
        default=8, description="training batches that criteria and solvers observe before each pruning"
    )
    fold_constants: bool = Field(default=False, description="hand what pruned units carry to the biases of readers")

    @model_validator(mode="after")
    def _check(self) -> Prune:
        words.coupled(self.fold_constants, self.inexact, [policy.granularity for policy in self.policies])
        words.permutations([policy.granularity for policy in self.policies])
        return self


class Finish(_Part):
    """What happens after pruning."""

    thin: bool = Field(default=True, description="remove pruned filters and channels physically")
    verify: bool = Field(default=True, description="prove thinned == masked in float64")
    recalibrate: bool = Field(default=True, description="measure batch norm's statistics anew")
    save: Annotated[str, BeforeValidator(words.file_name)] = Field(
        default="model.prunus", description="file name of the pruned model in the out folder"
    )
    export: Literal["onnx"] | None = None
    latency: bool = Field(default=True, description="measure the latency of both models")


class Recipe(_Part):
    """A whole run: train, prune, fine-tune, thin, prove, measure, report."""

    version: Annotated[Literal[1], BeforeValidator(words.version)]
    name: str | None = None
    model: FactoryField
    data: FactoryField
    loss: Annotated[str, BeforeValidator(words.loss)] = "cross_entropy"
    metrics: Annotated[list[Annotated[str, BeforeValidator(words.metric)]], Field(min_length=1)] = ["top1", "top5"]
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, BeforeValidator(words.device)] = "cpu"
    threads: Annotated[int, Field(ge=1)] | None = None
    train: RegularizedLoop = RegularizedLoop()
    sensitivity: Sensitivity | None = None
    prune: Prune
    fine_tune: Loop | None = None
    controls: list[Literal["random"]] = Field(
        default=[], description="prune and fine-tune again with units chosen at random: what is the criterion worth?"
    )
    finish: Finish = Finish()
    out: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        words.controls(self.controls, [policy.allocation for policy in self.prune.policies])
        return self

    def with_criterion(self, criterion: str) -> Recipe:
        """The same recipe with another criterion in every policy."""
        policies = [policy.model_copy(update={"criterion": criterion}) for policy in self.prune.policies]
        return self.model_copy(update={"prune": self.prune.model_copy(update={"policies": policies})})

    def plain(self) -> dict[str, Any]:
        """Plain values, every default filled in; what the run is recognised by."""
        found: Mapping[str, Any] = self.model_dump(mode="json")
        return dict(found)


def json_schema() -> dict[str, Any]:
    """The JSON schema that editors complete and check recipes with."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Prunus recipe"}
