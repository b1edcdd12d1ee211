"""The pictures: every kind, for few and many targets, the same file twice, and what each shows."""

import re

import numpy as np
import pytest

from prunus.errors import InputError, NameNotFound
from prunus.sensitivity import Costs, Curves, TargetCost

mpl = pytest.importorskip("matplotlib")
LEVELS = (0.3, 0.6, 0.9)


def curves(count, *, costs=True, values=None):
    """Targets in reverse order of their places, each with norms of its own."""
    names = [f"stage{i // 10}.block{i}.conv" for i in range(count)]
    targets = {
        name: TargetCost(8, 9.0, order=count - i, stage="8x8", norms=tuple(np.linspace(1, i / count, 8)))
        for i, name in enumerate(names)
    }
    found = {name: tuple(values or (0.9 - 0.1 * level * i / count for level in LEVELS)) for i, name in enumerate(names)}
    known = Costs(targets, True, (), ()) if costs else None
    return Curves("top1", "filter", "l1", LEVELS, {"top1": 0.9}, {"top1": found}, known)


@pytest.mark.parametrize("kind", ["lines", "slopes", "heat"])
@pytest.mark.parametrize("count", [1, 12, 65])
def test_the_same_curves_give_the_same_file_with_every_name(tmp_path, kind, count):
    for suffix in ("svg", "png"):
        for name in ("a", "b"):
            curves(count).plot(tmp_path / f"{name}.{suffix}", kind=kind, max_drop=0.05)
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with mpl.rc_context({"svg.fonttype": "none"}):
        curves(count).plot(tmp_path / "text.svg", kind=kind)
    text = (tmp_path / "text.svg").read_text()
    shown = re.findall(r">([\w.]+conv)<", text)
    assert shown == list(reversed(curves(count).table)), "first layer first"


def axes_of(make, *arguments):
    return make(*arguments).axes[0]


def test_lines_begin_at_the_dense_value_and_show_what_is_accepted():
    from prunus.sensitivity.plot import lines

    axes = axes_of(lines, curves(3), "top1", 0.8)
    first = axes.get_lines()[0]
    assert first.get_label() == "stage0.block2.conv"
    assert list(first.get_xdata()) == [0.0, *LEVELS]
    assert list(first.get_ydata()) == pytest.approx([0.9, 0.88, 0.86, 0.84])
    assert [line.get_ydata()[0] for line in axes.get_lines()[3:]] == [0.9, 0.8]
    assert {text.get_text() for text in axes.texts} == {"dense", "accepted: 80 %"}
    assert len({line.get_color() for line in axes.get_lines()[:3]}) == 3


def test_slopes_run_over_the_share_of_units():
    from prunus.sensitivity.slopes import slopes

    lines = axes_of(slopes, curves(2)).get_lines()
    assert [list(line.get_xdata()) for line in lines] == [pytest.approx(np.linspace(0, 1, 8))] * 2
    assert list(lines[1].get_ydata()) == pytest.approx(np.linspace(1, 0, 8))
    with pytest.raises(InputError, match="norms"):
        slopes(curves(2, costs=False))


def test_heat_shows_what_is_lost_and_a_border_where_it_is_too_much():
    from prunus.sensitivity.heat import heat

    axes = axes_of(heat, curves(2, values=(0.95, 0.7, 0.1)), "top1", 0.1, "max")
    shown = axes.get_images()[0].get_array()
    assert shown[0].tolist() == pytest.approx([0.0, 0.2, 0.8])
    assert [text.get_text() for text in axes.texts][:3] == ["95.0", "70.0", "10.0"]
    (border,) = axes.get_lines()
    assert set(border.get_xdata()) == {0.5}, "between the first level and the second"
    odd = axes_of(heat, curves(1, values=(0.5, float("nan"), float("-inf"))), "top1", None, "max")
    assert odd.get_images()[0].get_array().mask.tolist() == [[False, True, True]]


def test_a_wrong_kind_is_named(tmp_path):
    with pytest.raises(NameNotFound, match="did you mean lines"):
        curves(1).plot(tmp_path / "a.svg", kind="line")
    with pytest.raises(NameNotFound, match="mode"):
        curves(1).plot(tmp_path / "a.svg", mode="most")
