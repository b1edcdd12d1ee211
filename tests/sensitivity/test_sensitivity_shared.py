"""One table from several calls: parts, processes, merged files, workers, kills, early stops, recalibration."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from prunus.errors import FileError, InputError
from prunus.sensitivity import merge, perform_sensitivity_analysis
from prunus.sensitivity.early import Census, Gap
from prunus.sensitivity.store import CellStore
from prunus.statistics import recalibrate_
from prunus.training import Evaluation
from sensitivity_oracle import assert_same, check, naive_table, table

LEVELS = (0.3, 0.7)


def net():
    torch.manual_seed(0)
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return nn.Sequential(*layers).eval()


def pairs(count=3, size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, 6, generator=generator)
    return [(each, each[:, :3].argmax(1)) for each in x]


def evaluation(count=3, size=8, metrics=("loss", "top1")):
    return Evaluation(pairs(count, size), nn.functional.cross_entropy, metrics=metrics)


def analyse(store=None, **options):
    return perform_sensitivity_analysis(net(), evaluation(), levels=LEVELS, store=store, **options)


def test_parts_share_the_targets_and_merge_to_the_table(tmp_path):
    whole = analyse()
    files = [tmp_path / f"{number}.jsonl" for number in (1, 2, 3)]
    shares = [analyse(file, part=f"{number}/3") for number, file in enumerate(files, start=1)]
    assert [list(share.table) for share in shares] == [[name] for name in whole.table]
    assert merge(files, tmp_path / "all.jsonl") == 1 + 3 * len(LEVELS)
    found = perform_sensitivity_analysis(net(), lambda model: 1 / 0, levels=LEVELS, store=tmp_path / "all.jsonl")
    assert repr(found) == repr(whole)
    merge([tmp_path / "all.jsonl", files[0]], files[0])  # into one of them
    assert repr(perform_sensitivity_analysis(net(), lambda model: 1 / 0, levels=LEVELS, store=files[0])) == repr(whole)


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", (1,), (1.5, "x"), "a/b"])
def test_a_wrong_part_is_explained(part):
    with pytest.raises(InputError, match="part is"):
        analyse(part=part)
    with pytest.raises(InputError, match="only 3 targets"):
        analyse(part=(4, 4))


def test_stores_of_other_models_and_data_are_not_merged(tmp_path):
    analyse(tmp_path / "a.jsonl")
    perform_sensitivity_analysis(net(), evaluation(), levels=LEVELS, store=tmp_path / "b.jsonl", criterion="l2")
    perform_sensitivity_analysis(net(), evaluation(2), levels=LEVELS, store=tmp_path / "c.jsonl")
    with pytest.raises(FileError, match="another model, granularity or criterion"):
        merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "x.jsonl")
    with pytest.raises(FileError, match="other data: the dense model's loss"):
        merge([tmp_path / "a.jsonl", tmp_path / "c.jsonl"], tmp_path / "x.jsonl")
    with pytest.raises(FileError, match="is no file"):
        merge([tmp_path / "none.jsonl"], tmp_path / "x.jsonl")
    with pytest.raises(InputError, match="no stores"):
        merge([], tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_other_data_is_noticed_on_resuming(tmp_path):
    path = tmp_path / "a.jsonl"
    analyse(path, part="1/3")
    content = path.read_bytes()
    with pytest.raises(FileError, match="other data: the dense model's loss is"):
        perform_sensitivity_analysis(net(), evaluation(2), levels=LEVELS, store=path)
    assert path.read_bytes() == content


def test_two_processes_at_once_fill_one_table(tmp_path):
    path = tmp_path / "cells.jsonl"
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run_in_process, path, part) for part in ("1/2", "2/2")]
        assert [job.result().returncode for job in jobs] == [0, 0]
    assert repr(perform_sensitivity_analysis(net(), lambda model: 1 / 0, levels=LEVELS, store=path)) == repr(analyse())


def test_nobody_cuts_a_line_off_while_another_process_writes_it(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "cells.jsonl"
    CellStore(path, "mark").add("a", 0.5, {"loss": 1.0})
    line = json.dumps({"target": "b", "level": 0.5, "metrics": {"loss": 2.0}}).encode() + b"\n"
    with ThreadPoolExecutor(1) as pool, path.open("ab", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write(line[:9])
        other = pool.submit(CellStore, path, "mark")
        time.sleep(0.2)
        writer.write(line[9:])
        fcntl.flock(writer, fcntl.LOCK_UN)
        assert other.result().cells == {("a", 0.5): {"loss": 1.0}, ("b", 0.5): {"loss": 2.0}}


def command(path, part, seconds=0.0):
    words = f"import test_sensitivity_shared as t; t.slowly({str(path)!r}, {part!r}, {seconds})"
    return [sys.executable, "-c", words]


def environment():
    here = os.path.dirname(__file__)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.path.dirname(here), *sys.path])}


def run_in_process(path, part):
    return subprocess.run(command(path, part), env=environment(), check=False)


def slowly(path, part, seconds):
    from prunus.sensitivity import engine

    def groups(self, cells, survey):
        for cell in cells:
            time.sleep(seconds)
            yield [cell]

    engine.Engine._groups = groups
    analyse(path, part=part)


def test_a_killed_run_is_resumed_to_the_same_table(tmp_path):
    path = tmp_path / "cells.jsonl"
    process = subprocess.Popen(command(path, None, 0.3), env=environment())
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = path.read_bytes().count(b"\n")
    assert 4 <= before < 8
    assert repr(analyse(path)) == repr(analyse())
    assert path.read_bytes().count(b"\n") == 8


def test_workers_give_the_same_table(tmp_path):
    told = []
    found = analyse(tmp_path / "a.jsonl", workers=2, progress=lambda *news: told.append(news))
    assert repr(found) == repr(analyse())
    assert [news[:2] for news in told] == [(n, 7) for n in range(1, 8)]
    assert perform_sensitivity_analysis(net(), lambda model: 1 / 0, levels=LEVELS, store=tmp_path / "a.jsonl") == found


def test_what_workers_cannot_load_is_explained():
    with pytest.raises(InputError, match=r"cannot be pickled.*workers=1"):
        perform_sensitivity_analysis(net(), lambda model: 1.0, workers=2)


def test_cells_stop_when_the_interval_is_narrow_and_say_so(tmp_path):
    path, judged = tmp_path / "a.jsonl", evaluation(200, 16, metrics=("top1", "loss"))
    exact = perform_sensitivity_analysis(net(), judged, levels=LEVELS)
    found = perform_sensitivity_analysis(net(), judged, levels=LEVELS, store=path, approximate=0.1)
    assert found.approximate
    assert exact.approximate == {}
    for target, values in exact.table.items():
        for value, near in zip(values, found.table[target], strict=True):
            assert abs(value - near) <= 0.1
    cells = [json.loads(line) for line in path.read_text().splitlines()[2:]]
    early = [cell for cell in cells if cell.get("approximate")]
    assert {(cell["target"], cell["level"]) for cell in early} == {
        (target, level) for target, levels in found.approximate.items() for level in levels
    }
    assert all(30 <= cell["examples"] < 3200 and cell["examples"] % 16 == 0 for cell in early)
    assert found.ratios(0.05).keys() == exact.ratios(0.05).keys()
    again = perform_sensitivity_analysis(net(), judged, levels=LEVELS, store=path)  # exact ones take their places
    assert repr(again) == repr(exact)


def test_the_interval_is_that_of_the_mean_difference():
    gap = Gap()
    gap.add(torch.tensor([1.0, 0, 0, -1], dtype=torch.float64))
    gap.add(torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    variance = 3 / 8 - (1 / 8) ** 2
    assert gap.half_width == pytest.approx(max(1.96 * (variance / 8) ** 0.5, 3 / 8))
    none = Gap()
    none.add(torch.zeros(300, dtype=torch.float64))
    assert none.half_width == pytest.approx(0.01)


def ordered(order, size=25):
    """Twenty classes, told apart by their largest input; a net that mixes up some of them."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1000, 20, generator=generator)
    y, order = x.argmax(1), order(x)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 20)).eval()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    batches = list(zip(x[order].split(size), y[order].split(size), strict=True))
    judged = Evaluation(batches, nn.functional.cross_entropy, metrics=("top1",))
    levels = (0.3, 0.6, 0.8)
    exact = perform_sensitivity_analysis(model, judged, levels=levels).table
    return exact, lambda: perform_sensitivity_analysis(model, judged, levels=levels, approximate=0.05)


def worst(exact, found):
    return max(abs(a - b) for name in exact for a, b in zip(exact[name], found.table[name], strict=True))


def test_sorted_data_stops_nothing_before_it_is_like_the_whole():
    exact, analyse = ordered(lambda x: x.argmax(1).argsort(stable=True))
    with pytest.warns(UserWarning, match="the data comes in an order"):
        found = analyse()
    assert worst(exact, found) <= 0.05
    exact, analyse = ordered(lambda x: torch.arange(len(x)))
    found = analyse()
    assert found.approximate
    assert worst(exact, found) <= 0.05


def test_a_census_is_like_a_whole_of_the_same_shares():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(10, (5000,), generator=generator)
    right = (torch.rand(5000, generator=generator) < 0.8).double()
    whole = Census()
    whole.add(classes, right)

    def is_like(rows):
        part = Census()
        part.add(classes[rows], right[rows])
        return part.is_like(whole)

    random = [is_like(torch.randperm(5000, generator=generator)[:n]) for n in (30, 100, 1000) for _ in range(100)]
    assert sum(random) >= 0.95 * len(random)
    assert not is_like(classes.argsort()[:60])
    assert not is_like(right.argsort(descending=True)[:60])
    assert is_like(slice(None))


@pytest.mark.parametrize("value", [0, 1.0, -0.1, "1%", True])
def test_a_wrong_interval_is_explained(value):
    with pytest.raises(InputError, match="approximate is"):
        perform_sensitivity_analysis(net(), evaluation(metrics=("top1",)), approximate=value)


def test_early_stops_need_examples():
    with pytest.raises(InputError, match=r"needs a prunus\.training\.Evaluation"):
        perform_sensitivity_analysis(net(), lambda model: 1.0, approximate=0.1)
    with pytest.raises(InputError, match="judged metric is 'loss'"):
        analyse(approximate=0.1)


def test_recalibration_in_every_cell(tmp_path):
    from prunus.criteria import criterion
    from prunus.granularity import find_targets
    from prunus.sensitivity.cells import Cell, Cutter
    from prunus.statistics import Statistics

    model, data = net(), pairs(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = perform_sensitivity_analysis(model, evaluation(), levels=(0.5,), recalibrate=data, store=tmp_path / "a")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    wanted = {}
    for target in (None, *find_targets(model, "element", "*")):
        copy = net()
        Cutter(copy, criterion("l1"), Statistics()).prune_(Cell(target, 0.5))
        recalibrate_(copy, data)
        wanted[(target.name, 0.5) if target else ("", 0.0)] = evaluation()(copy)
    assert_same(table(found), wanted)
    assert found.dense != evaluation()(net())
    with pytest.raises(FileError, match="another model"):
        perform_sensitivity_analysis(model, evaluation(), levels=(0.5,), store=tmp_path / "a")


def test_a_ready_evaluation_is_the_naive_loop_too():
    check(net(), evaluation())
    assert naive_table(net(), evaluation())[("", 0.0)] == evaluation()(net())
