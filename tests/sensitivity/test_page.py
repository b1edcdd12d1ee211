"""The interactive page in a real browser: what is dragged, typed and locked there comes to what Python computes."""

import json
import math
import random
import sys

import pytest
import torch
import yaml

from prunus import perform_sensitivity_analysis, plan, trace, zoo
from prunus.errors import FileError, InputError, PrunusError
from prunus.granularity import find_targets
from prunus.sensitivity import Costs, Curves, TargetCost, target_costs
from prunus.sensitivity.schedule_text import rounded_down
from runtimes.counting import Counting
from sensitivity.browser import chromium

LEVELS = tuple(i / 10 for i in range(1, 10))
BASE = {
    "version": 1,
    "model": "user.py:net",
    "prune": {
        "epochs": 2,
        "policies": [{"granularity": "filter", "schedule": {"kind": "agp", "final": 0.5, "end": "2ep"}, "round_to": 4}],
    },
    "out": "runs/ünï",
}


def falling(graph, granularity="filter", seed=0, **more):
    """Curves of a traced model that fall, recover and fall again, each its own way."""
    draw = random.Random(seed)
    targets = find_targets(graph.model, granularity, "*", graph)
    values = {}
    for target in targets:
        middle, noise = draw.uniform(0.3, 0.9), draw.uniform(0, 0.05)
        found = [0.9 / (1 + math.exp(12 * (level - middle))) + noise * draw.random() for level in LEVELS]
        values[target.name] = tuple(min(0.93, value) for value in found)
    costs = target_costs(graph.model, targets, graph, samples=2)
    return Curves("top1", granularity, "l1", LEVELS, {"top1": 0.92}, {"top1": values}, costs, **more)


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return trace(zoo.resnet20().eval(), torch.zeros(2, 3, 32, 32))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def number(browser, element):
    return float(browser.run(f"document.getElementById({element!r}).dataset.value"))


def check(browser, curves, graph, ratios, *, round_to=1, base=None):
    """Every figure of the page is what the graph, not the page's own model, says of these ratios."""
    counts = curves.costs.counts(ratios, round_to=round_to)
    size = graph.size({name: graph[name].size - count for name, count in counts.items()})
    assert number(browser, "params") == size.params
    assert number(browser, "macs") == size.macs // 2
    kept = browser.run("[...rows.entries()].map(([i, r]) => [facts.targets[i].name, Number(r.kept.dataset.kept)])")
    assert dict(kept) == {name: graph[name].size - count for name, count in counts.items()}
    assert browser.run("document.getElementById('recipe').textContent") == curves.recipe(ratios, base)


def test_the_page_computes_what_the_graph_does_at_any_threshold(browser, graph, tmp_path):
    curves = falling(graph)
    curves.page(tmp_path / "page.html", base=BASE, max_drop=0.05)
    browser.open(tmp_path / "page.html")
    check(browser, curves, graph, curves.ratios(0.05), round_to=4, base=BASE)
    draw = random.Random(1)
    for drop in [1e-4, *(draw.random() for _ in range(8)), 0.9]:
        browser.run(f"state.drop = {drop!r}; refresh()")
        check(browser, curves, graph, curves.ratios(drop), round_to=4, base=BASE)


def handle_at(browser):
    found = browser.run("(() => { const b = document.querySelector('#line line').getBoundingClientRect();"
                        " return [b.left + b.width / 2, b.top + b.height / 2]; })()")  # fmt: skip
    return tuple(found)


def test_the_line_is_dragged_by_mouse_and_touch_and_moved_by_keys(browser, graph, tmp_path):
    curves = falling(graph, seed=2)
    curves.page(tmp_path / "page.html", max_drop=0.03)
    browser.open(tmp_path / "page.html")
    seen = [browser.run("state.drop")]
    x, y = handle_at(browser)
    for kind, where in (("mousePressed", y), ("mouseMoved", y + 30), ("mouseMoved", y + 60), ("mouseReleased", y + 60)):
        browser.mouse(kind, x, where)
    seen.append(browser.run("state.drop"))
    assert seen[1] > seen[0] + 0.05
    assert handle_at(browser)[1] == pytest.approx(y + 60, abs=1.5)
    check(browser, curves, graph, curves.ratios(seen[1]))
    browser.mouse("mouseMoved", x, y)
    assert browser.run("state.drop") == seen[1], "the button is up"
    x, y = handle_at(browser)
    browser.touch("touchStart", (x, y))
    browser.touch("touchMove", (x, y - 40))
    browser.touch("touchEnd")
    seen.append(browser.run("state.drop"))
    assert seen[2] < seen[1]
    check(browser, curves, graph, curves.ratios(seen[2]))
    browser.run("document.getElementById('line').focus()")
    for name, code, change in (("ArrowDown", 40, 0.001), ("PageDown", 34, 0.01), ("ArrowUp", 38, -0.001)):
        before = browser.run("state.drop")
        browser.key(name, code)
        assert browser.run("state.drop") == pytest.approx(before + change)
    browser.key("Home", 36)
    assert browser.run("state.drop") == 0
    assert browser.run("document.getElementById('line').getAttribute('aria-valuenow')") == "0.92"
    assert "worse than dense" in browser.run("document.getElementById('line').getAttribute('aria-valuetext')")


def type_into(browser, selector, text):
    browser.run(f"(() => {{ const n = document.querySelector({selector!r}); n.value = {text!r};"
                " n.dispatchEvent(new Event('input')); n.dispatchEvent(new Event('change')); })()")  # fmt: skip


def test_a_typed_ratio_is_locked_until_it_is_unlocked(browser, graph, tmp_path):
    curves = falling(graph, seed=3)
    curves.page(tmp_path / "page.html", max_drop=0.05)
    browser.open(tmp_path / "page.html")
    type_into(browser, "[data-target='layer1.0.conv1']", "37.5")
    browser.run("document.querySelector('[data-lock=\"conv1\"]').click()")
    own = {"layer1.0.conv1": 0.375, "conv1": rounded_down(curves.ratios(0.05)["conv1"])}
    type_into(browser, "#drop", "20")
    check(browser, curves, graph, {**curves.ratios(0.2), **own})
    browser.run("document.querySelector('[data-lock=\"conv1\"]').click()")
    check(browser, curves, graph, {**curves.ratios(0.2), "layer1.0.conv1": 0.375})
    browser.run("document.getElementById('unlock').click()")
    check(browser, curves, graph, curves.ratios(0.2))
    for wrong in ("100", "-1", ""):
        type_into(browser, "[data-target='conv1']", wrong)
        check(browser, curves, graph, curves.ratios(0.2))


def test_the_button_downloads_the_schedule_that_python_writes(browser, graph, tmp_path):
    curves = falling(graph, seed=4)
    curves.page(tmp_path / "page.html", base=BASE, max_drop=0.1)
    browser.open(tmp_path / "page.html")
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    browser.run("document.getElementById('download').click()")
    browser.wait_for("Browser.downloadWillBegin")
    while '"completed"' not in json.dumps(browser.last.get("Browser.downloadProgress", {})):
        browser.wait_for("Browser.downloadProgress")
    assert (tmp_path / "schedule.yaml").read_text(encoding="utf-8") == curves.recipe(curves.ratios(0.1), BASE)
    browser.run("state.drop = 0; refresh()")
    flat = all(ratio == 0 for ratio in curves.ratios(0).values())
    assert browser.run("document.getElementById('download').disabled") == flat


def test_zeros_show_non_zeros_and_a_rising_loss_is_a_drop(browser, tmp_path):
    torch.manual_seed(0)
    model = zoo.LeNet300()
    costs = target_costs(model, find_targets(model, "element", "*"))
    values = {name: (0.3, 0.5 + i, math.inf) for i, name in enumerate(costs.targets)}
    curves = Curves("loss", "element", "l1", (0.5, 0.8, 0.95), {"loss": 0.3}, {"loss": values}, costs)
    curves.page(tmp_path / "page.html", mode="min", max_drop=0.1)
    browser.open(tmp_path / "page.html")
    ratios = {name: rounded_down(ratio) for name, ratio in curves.ratios(0.1, mode="min").items()}
    assert number(browser, "nonzeros") == costs.left(costs.counts(ratios)).nnz
    assert browser.run("document.getElementById('macs')") is None
    assert browser.run("document.getElementById('recipe').textContent") == curves.recipe(ratios)


def test_zeros_of_units_of_several_sizes_are_the_same_on_the_page(browser, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(36, 70), torch.nn.Linear(70, 9))
    curves = perform_sensitivity_analysis(
        model, lambda net: float(net[0].weight.detach().abs().sum()), granularity="vector(32)", levels=(0.3, 0.6)
    )
    curves.page(tmp_path / "page.html", max_drop=50)
    browser.open(tmp_path / "page.html")
    counts = curves.costs.counts({name: rounded_down(ratio) for name, ratio in curves.ratios(50).items()})
    assert any(counts.values())
    assert number(browser, "nonzeros") == pytest.approx(curves.costs.left(counts).nnz, abs=1e-6)
    assert number(browser, "nonzeros") != curves.costs.left({}).nnz - sum(
        count * curves.costs.targets[name].elements for name, count in counts.items()
    )


def test_latency_follows_the_line_and_is_that_of_a_device_that_counts(browser, graph, tmp_path, monkeypatch):
    """On a device whose times are the MACs, the sum over parts, each linear in both of its sizes, is exact."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    curves = falling(graph, seed=5).timed(graph, Counting())
    curves.page(tmp_path / "page.html", max_drop=0.05)
    browser.open(tmp_path / "page.html")
    for drop in (0.05, 0.2, 0.5):
        browser.run(f"state.drop = {drop}; refresh()")
        assert number(browser, "latency") == pytest.approx(number(browser, "macs") * 2e-6)
    text = "document.body.textContent"
    assert browser.run(f"{text}.includes('ms estimated on counting, batch 2')")
    assert browser.run(f"{text}.includes('One whole model was measured besides')")


def test_steps_of_the_kernels_are_the_pages_too(browser, graph, tmp_path):
    base = {**BASE, "prune": {**BASE["prune"], "policies": [{**BASE["prune"]["policies"][0], "round_to": "auto"}]}}
    curves = falling(graph, seed=6)
    curves.page(tmp_path / "page.html", base=base, max_drop=0.1)
    browser.open(tmp_path / "page.html")
    check(browser, curves, graph, curves.ratios(0.1), round_to="auto", base=base)
    ratios = yaml.safe_load(browser.run("document.getElementById('recipe').textContent"))
    (policy,) = ratios["prune"]["policies"]
    planned = plan(graph, ratio=0.5, allocation=policy["allocation"], round_to=policy["round_to"])
    kept = browser.run("[...rows.entries()].map(([i, r]) => [facts.targets[i].name, Number(r.kept.dataset.kept)])")
    assert planned.sizes == {name: left for name, left in kept if left < graph[name].size}


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_and_nothing_is_fetched(browser, graph, tmp_path, width, dark):
    falling(graph, approximate={"conv1": (0.5,)}).page(tmp_path / "page.html", title="a <b> & </script> c")
    browser.requests.clear()
    browser.open(tmp_path / "page.html", width=width, dark=dark)
    root = "document.documentElement"
    assert browser.run(f"{root}.scrollWidth <= {root}.clientWidth")
    assert browser.run("document.querySelector('h1').textContent") == "a <b> & </script> c"
    assert browser.requests == [(tmp_path / "page.html").resolve().as_uri()]
    colour = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in colour[4:-1].split(",")) < 200) == dark
    assert browser.run("[...document.querySelectorAll('[data-target]')].map((n) => n.dataset.target)[0]") == "conv1"


def test_the_page_says_what_it_lacks(graph, tmp_path, monkeypatch):
    curves = falling(graph)
    bare = Curves("top1", "filter", "l1", (0.5,), {"top1": 1}, {"top1": {"a": (1,)}})
    with pytest.raises(InputError, match="lack; analyse again"):
        bare.page(tmp_path / "a.html")
    with pytest.raises(FileError, match="cannot be written"):
        curves.page(tmp_path / "no" / "a.html")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(PrunusError, match=r"pip install 'prunus\[report\]'"):
        curves.page(tmp_path / "a.html")


def test_equal_sets_are_held_back_and_a_name_cannot_end_the_script(browser, tmp_path):
    names = ["</script><b>", "b", "c", "d: #"]
    terms = ((1, ("</script><b>", "b")), (2, ("c", "c")), (5, ()), (7, ("d: #",)))
    targets = {name: TargetCost(20, 1.0, minimum=3, rounds=True) for name in names}
    equal = (("</script><b>", "c"), ("d: #", "elsewhere"))
    costs = Costs(targets, True, terms, terms, terms, dict.fromkeys(names, 20), equal)
    values = {name: (0.9 - 0.1 * i, 0.3, 0.2) for i, name in enumerate(names)}
    curves = Curves("top1", "filter", "l1", (0.3, 0.6, 0.95), {"top1": 0.9}, {"top1": values}, costs)
    curves.page(tmp_path / "page.html", max_drop=0.25)
    browser.open(tmp_path / "page.html")
    for drop in (0.05, 0.25, 0.65, 0.7):
        browser.run(f"state.drop = {drop}; refresh()")
        counts = costs.counts({name: rounded_down(ratio) for name, ratio in curves.ratios(drop).items()})
        assert counts["d: #"] == 0
        assert counts["</script><b>"] == counts["c"] > 0
        left = {name: 20 - count for name, count in counts.items()}
        assert number(browser, "params") == left["</script><b>"] * left["b"] + 2 * left["c"] ** 2 + 5 + 7 * 20
        text = browser.run("document.getElementById('recipe').textContent")
        assert text == curves.recipe(curves.ratios(drop))
        assert set(yaml.safe_load(text)["policies"][0]["allocation"]["per_layer"]) <= set(names)
