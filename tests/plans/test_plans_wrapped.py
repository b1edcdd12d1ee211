"""What a user may hold instead of a plain module: wrappers are looked into, what cannot be cut is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

import prunus
from axes.proving import Net, assert_same, check, conv, generic_, images, outputs, thin
from prunus.errors import InputError


def plain_net() -> nn.Module:
    return generic_(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)))


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A group of one process, as data parallelism needs it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": compiled,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "compiled DDP": lambda model: compiled(nn.parallel.DistributedDataParallel(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_out_of_a_wrapper_comes_the_plain_module_thinned(name: str, tmp_path: Path) -> None:
    """Every entrance names tensors as the plain module does, so plans and files are the same for both."""
    model, x = plain_net(), images()
    with process_group(tmp_path):
        wrapped = WRAPPERS[name](copy.deepcopy(model))
        plan = prunus.plan(prunus.trace(wrapped, x), ratio=0.5)
        assert plan.kept.keys() == {"0"}
        small = plan.apply(wrapped)
        assert type(small) is nn.Sequential
        assert_same(outputs(plan.mask(model), (x,)), outputs(small, (x,)))
        assert_same(outputs(plan.mask(wrapped), (x,)), outputs(small, (x,)))
        assert plan.prove(wrapped)[0].passed
        again, report = prunus.prune(wrapped, x, ratio=0.5, measure_latency=False)
        assert torch.equal(again[0].weight, small[0].weight)
        assert report.dense.parameters == prunus.measure(wrapped, x).parameters == prunus.measure(model, x).parameters
        prunus.save(wrapped, tmp_path / "m.prunus")
        assert torch.equal(prunus.load(tmp_path / "m.prunus", plain_net)(x), model.eval()(x))


@pytest.mark.parametrize("name", WRAPPERS)
def test_masks_and_sensitivity_speak_of_the_plain_names_too(name: str, tmp_path: Path) -> None:
    with process_group(tmp_path):
        model = WRAPPERS[name](plain_net())
        before = [t.clone() for t in model.state_dict().values()]
        curves = prunus.perform_sensitivity_analysis(model, lambda m: m(images()).mean().item(), levels=(0.5,))
        assert set(curves.values["metric"]) == {"0.weight", "3.weight"}
        assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        once = {"kind": "one_shot", "final": 0.5}
        policies = [prunus.Policy(granularity="element", targets="3.weight", schedule=once)]
        with prunus.sparse(model, optimizer, policies) as scheduler:
            assert set(scheduler.masks.masks) == {"3.weight"}
        assert sum(int((p == 0).sum()) for p in model.parameters()) == 4 * 8 * 9 // 2


@pytest.mark.parametrize("name", ["torch.compile", "DataParallel"])
def test_in_place_the_wrapper_goes_on_with_the_thinned_module(name: str) -> None:
    model, x = plain_net().eval(), images()
    wrapped = WRAPPERS[name](model)
    wrapped(x)
    plan = prunus.plan(prunus.trace(wrapped, x), ratio=0.5)
    want = plan.mask(model)(x)
    assert plan.apply(wrapped, inplace=True) is model
    torch.testing.assert_close(wrapped(x), want)


def test_in_place_under_ddp_is_refused_untouched(tmp_path: Path) -> None:
    with process_group(tmp_path):
        wrapped = nn.parallel.DistributedDataParallel(plain_net())
        plan = prunus.plan(prunus.trace(wrapped, images()), ratio=0.5)
        with pytest.raises(InputError, match=r"gradient buckets of the old sizes.*thin its \.module"):
            plan.apply(wrapped, inplace=True)
        assert wrapped.module[0].out_channels == 8
        assert plan.apply(wrapped.module, inplace=True)[0].out_channels == 4


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), {nn.Linear})


def prepared() -> nn.Module:
    model = nn.Sequential(conv(3, 8), conv(8, 4)).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return torch.ao.quantization.prepare_qat(model)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(conv(3, 8), conv(8, 4))


class FSDPModule:
    """Stands for torch's mixin, which needs an accelerator to be made."""


class Sharded(FSDPModule, nn.Sequential):
    """A module after `fully_shard`."""


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(plain_net()), "TorchScript.*pass the module it was made from"),
    "traced": (lambda: torch.jit.trace(plain_net().eval(), images()), "TorchScript"),
    "script inside": (lambda: nn.Sequential(torch.jit.script(conv(3, 8)), conv(8, 4)), r"0 \(.*TorchScript"),
    "exported": (lambda: torch.export.export(plain_net().eval(), (images(),)), "ExportedProgram instead of"),
    "export's module": (
        lambda: torch.export.export(plain_net().eval(), (images(),)).module(),
        "made by torch.export.*module that was exported",
    ),
    "function": (lambda: torch.relu, "instead of a torch.nn.Module"),
    "class": (lambda: nn.Sequential, "got type instead of"),
    "meta": (on_meta, r"0\.weight is on the meta device"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), conv(8, 4)), r"0\.weight has no shape yet; run the model once"),
    "quantised": (quantised, r"0 \(Linear\) is quantised; thin the floating-point model first"),
    "prepared for quantisation": (prepared, "is quantised"),
    "FSDP": (lambda: Sharded(conv(3, 8), conv(8, 4)), "Sharded is sharded by FSDP; thin the whole model first"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_plain_weights_is_refused_with_the_next_step(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        prunus.trace(make(), images())


def test_traced_symbolically_it_is_a_module_like_any_other() -> None:
    check(torch.fx.symbolic_trace(plain_net()), images(), own_class=False)


class Signed(nn.Module):
    """A parametrization that keeps zeros."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * weight.abs()


def test_parametrised_weights_are_cut_at_their_originals() -> None:
    model = plain_net()
    parametrize.register_parametrization(model[0], "weight", Signed())
    parametrize.register_parametrization(model[3], "weight", Signed())
    _, small = thin(check(model, images()), model, 0.5)
    assert (small[0].out_channels, small[3].in_channels) == (4, 4)
    assert small[0].weight.shape == (4, 3, 3, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_spectral_norm_by_hook_is_cut_with_its_vectors() -> None:
    model = plain_net()
    torch.nn.utils.spectral_norm(model[0])
    model(images())
    _, small = thin(prunus.trace(model, images()), model, 0.5)
    assert small[0].out_channels == 4
    assert small[0].weight_u.shape == (4,)


def test_model_that_holds_its_last_result_is_copied() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        self.last, self.all = self.c(x), {"deep": [self.c(x)]}
        return self.e(self.last)

    model = generic_(Net(forward, c=conv(3, 8), e=conv(8, 4)))
    model(images())
    _, small = thin(prunus.trace(model, images()), model, 0.5)
    assert model.last.grad_fn is not None
    assert small.c.out_channels == 4


def test_buffer_that_was_computed_is_cut_in_a_copy_and_in_place() -> None:
    model = generic_(Net(lambda s, x: s.e(s.c(x) * s.scale), c=conv(3, 8), e=conv(8, 4)))
    model.register_buffer("scale", torch.ones(8, 1, 1, requires_grad=True) * 2)
    plan, small = thin(prunus.trace(model, images()), model, 0.5)
    plan.apply(model, inplace=True)
    assert model.scale.shape == (4, 1, 1)
    torch.testing.assert_close(model(images()), small(images()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_stays_and_the_proof_is_in_float64(dtype: torch.dtype) -> None:
    model = plain_net().to(dtype)
    small, report = prunus.prune(model, images().to(dtype), ratio=0.5, measure_latency=False)
    assert report.proof is not None
    assert report.proof.passed
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small(images().to(dtype)).dtype == dtype


def test_model_on_several_dtypes_keeps_each() -> None:
    model = generic_(Net(lambda s, x: s.e(s.c(x.bfloat16()).float()), c=conv(3, 8).bfloat16(), e=conv(8, 4)))
    small = prunus.plan(prunus.trace(model, images()), ratio=0.5).apply(model)
    assert (small.c.weight.dtype, small.e.weight.dtype) == (torch.bfloat16, torch.float32)
    assert small(images()).shape == (2, 4, 6, 6)
