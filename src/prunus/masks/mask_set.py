"""The masks in force while a model is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunus.axes import unwrapped
from prunus.errors import InputError
from prunus.masks.bits import bits_for, fits, mask_, mask_gradient_
from prunus.masks.hidden import Hidden
from prunus.masks.state import around_closure, check_optimizer, forget_directions_, mask_state_
from prunus.masks.tensors import Storage, check_overlap, checked_mask, find, storages

Masks = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Held:
    """A masked tensor and its bits; those of its gradient and optimizer state spare what lives on hidden."""

    tensor: Tensor
    bits: Tensor
    gradient_bits: Tensor

    @property
    def fits(self) -> bool:
        """Whether the bits still match the tensor."""
        return fits(self.bits, self.tensor)


@dataclass(frozen=True)
class Attached:
    """An optimizer and our three hooks in it."""

    optimizer: torch.optim.Optimizer
    before: RemovableHandle
    after: RemovableHandle
    loaded: RemovableHandle

    def remove(self) -> None:
        """Take the hooks out."""
        for handle in (self.before, self.after, self.loaded):
            handle.remove()


class MaskSet:
    """Keep the pruned weights of a model at exactly zero, whatever the optimizer does.

    The masks live beside the model: its class, its parameters and the keys of its state_dict stay as they
    are. There is one mask per storage, so ties share it, and several sources (policies) on one tensor
    intersect. Three actions:

    1. on a mask change, zero the weight and every optimizer state tensor of its shape (so that a weight
       that is let free again starts from rest);
    2. before each optimizer step, and after each call of a step's closure, zero the gradient;
    3. after the step, zero the weight again: decoupled weight decay, Nesterov momentum and whatever else
       an optimizer does by itself cannot leak.

    Weights are exact zeros after every step of any torch optimizer. LBFGS keeps one flat history over all
    parameters: a mask change clears it, and from there on its directions are exact zeros at pruned
    positions too. Gradients are masked when the optimizer steps; where something reads them earlier
    (clipping by norm), call `mask_gradients_()` first. Buffers can be masked as well: they are zeroed on
    a mask change and after each step, and have no gradient. In a masked channel of a batch norm (weight
    and bias zero) the output is exactly zero whatever its running statistics are; masking those merely
    gives them the value that a channel of zeros drives them to.

    Infinite and nan gradients at pruned positions become zero like all others (see `masks.bits`).

    A source may hide what it prunes instead of ending it: the model still computes with exact zeros, but during an
    optimizer's step the hidden values are back in place, with their gradients and optimizer state, so that they are
    trained as if they were not masked (dynamic network surgery's second copy of the weights).
    """

    def __init__(self, model: nn.Module) -> None:
        model = unwrapped(model)
        self._storages = storages(model)
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._sources: dict[str, dict[str, Tensor]] = {}
        self._masks: dict[str, Tensor] = {}
        self._ending: dict[str, Tensor] = {}
        self._hidden = Hidden()
        self._weights: list[Held] = []
        self._buffers: list[Held] = []
        self._attached: dict[int, Attached] = {}

    @property
    def masks(self) -> Masks:
        """The intersected mask of every masked tensor, by its first name: True where a value is kept."""
        return MappingProxyType(self._masks)

    @property
    def sources(self) -> tuple[str, ...]:
        """Who has set masks, in the order of their first call."""
        return tuple(self._sources)

    def set_(self, source: str, masks: Masks, *, hide: bool = False) -> None:
        """Replace the masks of one source, and zero weights and optimizer state at once.

        source: who asks, such as the name of a policy.
        masks: by parameter or buffer name (any of its names, if it is tied), boolean, True = kept, of the
        tensor's
            shape. An empty mapping takes the source's masks away; freed weights grow again from zero, or from
            their hidden value.
        hide: whether what this source prunes lives on hidden, if no other source prunes it too. Parameters only.
        Raises NameNotFound, or InputError for a wrong shape or type; then nothing has changed.
        """
        checked = self._checked(masks)
        if hide:
            self._check_parameters(checked)
        hiding = self._hidden.sources - {source} | ({source} if hide else set())
        self._replace({**self._sources, source: checked}, hiding)
        for attached in self._attached.values():
            forget_directions_(attached.optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Enforce the masks in every step of an optimizer, for all its parameter groups; several may be
        attached.

        Raises InputError where it is not a torch optimizer or holds none of the model's parameters.
        """
        check_optimizer(optimizer, self._parameters)
        if id(optimizer) not in self._attached:
            self._attached[id(optimizer)] = Attached(
                optimizer,
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
                optimizer.register_load_state_dict_post_hook(self._mask_state_),
            )
            self._mask_state_(optimizer)

    def detach(self) -> None:
        """Let all optimizers go: the zeros stay, but the next step may fill them."""
        for attached in self._attached.values():
            attached.remove()
        self._attached.clear()

    def apply_(self) -> None:
        """Zero all masked values and their optimizer state now, as after loading a dense state_dict."""
        self._mask_weights_()
        self._mask_buffers_()
        for attached in self._attached.values():
            self._mask_state_(attached.optimizer)

    def mask_gradients_(self) -> None:
        """Zero the gradients of pruned weights now; each optimizer step does so by itself."""
        for held in self._weights:  # the first layer last: the optimizer then finds its gradient in the cache
            grad = held.tensor.grad
            if grad is not None:
                mask_gradient_(grad, held.gradient_bits)

    def sparsity(self) -> dict[str, float]:
        """Return the pruned share of every masked tensor, in [0, 1]."""
        return {name: 1.0 - _share(mask) for name, mask in self._masks.items()}

    @torch.no_grad()
    def with_hidden(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors, by state-dict name, as they are with what hides behind masks in its place."""
        return {name: self._hidden.shown(_first(self._storages, name), tensor) for name, tensor in tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all masks as plain data: {"sources": {source: {name: boolean tensor}}, "hidden": {…}}."""
        return {
            "sources": {source: _copies(masks) for source, masks in self._sources.items()},
            "hidden": self._hidden.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put saved masks in force in the place of all present ones.

        Raises InputError where they do not fit the model; then nothing has changed.
        """
        if not isinstance(state.get("sources"), Mapping):
            raise InputError("this is not the state of a MaskSet: it has no mapping `sources`")
        sources = {source: self._checked(masks) for source, masks in state["sources"].items()}
        hidden = Hidden.of(state.get("hidden", {}), self._storages)
        self._hidden.values.clear()
        self._replace(sources, hidden.sources)
        self._hidden = hidden

    def _checked(self, masks: Masks) -> dict[str, Tensor]:
        """Return copies under first names; masks of several names of one tensor intersect."""
        checked: dict[str, Tensor] = {}
        for name, mask in masks.items():
            storage = find(self._storages, name)
            check_overlap(self._storages, storage)
            mask = checked_mask(storage, name, mask)
            known = checked.get(storage.name)
            checked[storage.name] = mask if known is None else known & mask
        return checked

    def _check_parameters(self, masks: Masks) -> None:
        for name in masks:
            if any(id(tensor) not in self._parameters for tensor in self._storages[name].tensors):
                raise InputError(f"{name} is a buffer, which no optimizer trains; only parameters live on hidden")

    @torch.no_grad()
    def _replace(self, sources: dict[str, dict[str, Tensor]], hiding: frozenset[str] | set[str]) -> None:
        self._show_()
        self._hidden.values.clear()
        self._sources = {source: masks for source, masks in sources.items() if masks}
        self._hidden.sources = frozenset(hiding) & set(self._sources)
        self._masks = _intersect(self._sources.values())
        ending = [masks for name, masks in self._sources.items() if name not in self._hidden.sources]
        self._ending = _intersect(ending) if self._hidden.sources else self._masks
        self._refresh()
        self._hide_()
        self.apply_()

    def _show_(self) -> None:
        """Put what is hidden back into the weights."""
        for name in self._hidden.values:
            weight = self._storages[name].tensors[0]
            weight.copy_(self._hidden.shown(name, weight))

    def _hide_(self) -> None:
        """Take aside what masks of hiding sources are about to zero."""
        for name in {name for source in self._hidden.sources for name in self._sources[source]}:
            weight = self._storages[name].tensors[0]
            behind = ~self._masks[name] & self._ending.get(name, torch.ones_like(self._masks[name]))
            self._hidden.take_(name, weight, behind)

    def _refresh(self) -> None:
        """Make the bits anew: the masks have changed, or the model has moved or changed its type."""
        self._weights, self._buffers = [], []
        for name, mask in self._masks.items():
            ending = self._ending.get(name, torch.ones_like(mask))
            for tensor in self._storages[name].tensors:
                held = self._weights if id(tensor) in self._parameters else self._buffers
                bits = bits_for(mask, tensor)
                held.append(Held(tensor, bits, bits if ending is mask else bits_for(ending, tensor)))
        self._weights.reverse()

    @torch.no_grad()
    def _mask_weights_(self) -> None:
        if not all(held.fits for held in self._weights):
            self._refresh()
        for held in self._weights:
            mask_(held.tensor, held.bits)

    def _mask_buffers_(self) -> None:
        for held in self._buffers:
            mask_(held.tensor.detach(), held.bits)

    @torch.no_grad()
    def _mask_state_(self, optimizer: torch.optim.Optimizer) -> None:
        for held in self._weights:
            mask_state_(optimizer, held.tensor, held.gradient_bits)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        with_actions = around_closure(args, kwargs, self._before_closure, self._after_closure)
        self._after_closure()
        return with_actions

    @torch.no_grad()
    def _before_closure(self) -> None:
        """Compute with the masks in force."""
        if self._hidden.sources:
            self._hide_()
            self._mask_weights_()

    @torch.no_grad()
    def _after_closure(self) -> None:
        """Step with gradients of what lives, shown or hidden."""
        self.mask_gradients_()
        self._show_()

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self._hide_()
        self._mask_weights_()
        self._mask_buffers_()


def _intersect(sources: Iterable[Masks]) -> dict[str, Tensor]:
    together: dict[str, Tensor] = {}
    for masks in sources:
        for name, mask in masks.items():
            together[name] = together[name] & mask if name in together else mask
    return together


def _copies(masks: Masks) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in masks.items()}


def _share(mask: Tensor) -> float:
    return int(mask.sum()) / mask.numel() if mask.numel() else 1.0


def _first(by_name: Mapping[str, Storage], name: str) -> str:
    return by_name[name].name if name in by_name else name
