"""The store of trials and its front."""

import json
import os
import random

import pytest

from prunus.errors import FileError, InputError
from prunus.search import AMC, NetAdapt, Trial, TrialStore, pareto
from prunus.search.problem import Book, read_metrics
from prunus.search.remembered import Remembered
from prunus.training.files import read_lines
from search.toys import run, toy


def trial(number=0, metric=0.5, share=0.5, **more):
    return Trial(number, {"a": 1}, {"top1": metric, "loss": 0.1}, share * 100, share, True, **more)


def test_trials_come_back_as_they_were_written(tmp_path):
    store = TrialStore(tmp_path / "s.jsonl", "m")
    for number in range(3):
        units = {"a": (0, 3)} if number else None
        store.add(trial(number, 0.1 + 0.2, notes={"reward": -1.5}, units=units))
    assert TrialStore(tmp_path / "s.jsonl", "m").trials == store.trials


def test_a_store_cut_anywhere_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "s.jsonl"
    store = TrialStore(path, "m")
    for number in range(3):
        store.add(trial(number))
    raw = path.read_bytes()
    for length in range(len(raw) + 1):
        path.write_bytes(raw[:length])
        whole = max(0, raw[:length].count(b"\n") - 1)
        again = TrialStore(path, "m")
        assert again.trials == store.trials[:whole]
        again.add(trial(whole))
        assert len(read_lines(path)) == whole + 2


def test_foreign_damaged_and_other_stores_are_refused(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text("a,b\n1,2")
    with pytest.raises(FileError, match="holds no trials of a search"):
        TrialStore(path, "m")
    assert path.read_text() == "a,b\n1,2"
    path.unlink()
    store = TrialStore(path, "m")
    with pytest.raises(FileError, match="is of another search"):
        TrialStore(path, "n")
    store.add(trial())
    path.write_text(path.read_text() + "}{\n" + json.dumps(trial(1).to_dict()) + "\n")
    with pytest.raises(FileError, match="line 3 is damaged"):
        TrialStore(path, "m")
    path.write_text("\n".join([*path.read_text().splitlines()[:1], '{"number": 3}']) + "\n")
    with pytest.raises(FileError, match="has a line that is no trial"):
        TrialStore(path, "m")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_front_is_what_no_other_beats(mode):
    draw = random.Random(0)
    trials = [trial(n, draw.randrange(8) / 8, draw.randrange(8) / 8) for n in range(60)]
    sign = 1 if mode == "max" else -1

    def beats(a, b):
        return sign * a.metric >= sign * b.metric and a.share <= b.share and (a.metric, a.share) != (b.metric, b.share)

    wanted = {(t.metric, t.share) for t in trials if not any(beats(other, t) for other in trials)}
    front = pareto(trials, mode)
    assert [(t.metric, t.share) for t in front] == sorted(wanted, key=lambda pair: pair[1])
    assert all(t.number == min(o.number for o in trials if (o.metric, o.share) == (t.metric, t.share)) for t in front)


def test_candidates_seen_before_are_not_judged_again():
    judged = []

    def judge(counts):
        judged.append(tuple(counts.values()))
        return {"top1": 0.5}

    run(AMC(trials=60, warmup=5), toy("macs=0.9", judge=judge))
    assert len(judged) == len(set(judged))


@pytest.mark.parametrize("kept", [0, 1, 5, 9])
def test_an_amc_search_whose_state_is_behind_its_store_takes_the_store(tmp_path, kept):
    whole = run(AMC(trials=8, warmup=2), toy(), tmp_path / "a.jsonl").store.trials
    part = tmp_path / "b.jsonl"
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    part.write_text("".join(lines[: kept + 1]))
    asked = []

    def judge(counts):
        asked.append(counts)
        return toy().judge(counts)

    assert run(AMC(trials=8, warmup=2), toy(judge=judge), part).store.trials == whole
    assert len(asked) <= 9 - kept


def test_a_store_with_other_candidates_is_not_gone_on_with(tmp_path):
    path = tmp_path / "a.jsonl"
    run(NetAdapt(), toy(), path)
    os.remove(f"{path}.state")
    lines = path.read_text().splitlines()
    changed = json.loads(lines[2])
    changed["counts"]["g0"] = 7
    path.write_text("\n".join([*lines[:2], json.dumps(changed), *lines[3:]]) + "\n")
    with pytest.raises(FileError, match="trial 1 is another candidate than the search comes to now"):
        run(NetAdapt(), toy(), path)


def test_candidates_made_of_others_lie_between_the_method_s_own(tmp_path):
    choices, judged = [(1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0)], []

    def judge(counts):
        judged.append(dict(counts))
        return {"top1": 0.5}

    def book():
        return Book(toy(judge=judge), TrialStore(tmp_path / "a.jsonl", "toy"))

    first = book()
    own = [first.measure(choices[0], 3)]
    made = first.beside((5, 0, 0, 0), own[0])
    assert made.notes == {"made of": 1}
    assert first.beside((5, 0, 0, 0), own[0]) is made
    own += [first.measure(choice, 3) for choice in choices[1:]]
    assert [trial.number for trial in first.store.trials] == [0, 1, 2, 3, 4]
    assert len(judged) == 5
    again = book()
    assert [again.measure(choice, 3) for choice in choices] == own, "from the beginning"
    again.go_on_at(2)
    assert again.measure(choices[1], 3) == own[1]
    again.go_on_at(4)
    assert again.measure((4, 0, 0, 0), 4).number == 5
    assert len(judged) == 6
    with pytest.raises(FileError, match="lacks trials"):
        again.go_on_at(6)


def test_a_state_without_its_store_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    run(AMC(trials=3), toy(), path)
    path.unlink()
    with pytest.raises(FileError, match="lacks trials that its state file counts"):
        run(AMC(trials=3), toy(), path)


def test_metrics_are_finite_numbers():
    from prunus.errors import TrainingError

    assert read_metrics(0.5) == {"metric": 0.5}
    assert list(read_metrics({"top1": 1, "loss": 2})) == ["top1", "loss"]
    for wrong in (None, "x", {}, float("nan"), {"a": None}):
        with pytest.raises(TrainingError, match="evaluate returned"):
            read_metrics(wrong)


def test_a_trial_read_from_a_file_has_no_plan():
    with pytest.raises(InputError, match="was read from a file"):
        trial().plan()


def test_what_was_measured_is_asked_for_once_also_after_a_kill(tmp_path):
    asked = []

    def watch(counts):  # another figure at every look
        asked.append(dict(counts))
        return float(len(asked)), 10.0

    path = tmp_path / "s.jsonl.prices"
    first = Remembered(watch, path)
    assert [first({"a": 1, "b": 2}), first({"b": 2, "a": 1}), first({"a": 2, "b": 2})] == [(1, 10), (1, 10), (2, 10)]
    path.write_bytes(path.read_bytes() + b'{"counts": [["a", 3')
    again = Remembered(watch, path)
    assert [again({"a": 2, "b": 2}), again({"a": 3, "b": 2}), again({"a": 1, "b": 2})] == [(2, 10), (3, 10), (1, 10)]
    assert Remembered(watch, path)({"a": 3, "b": 2}) == (3, 10)
    path.write_text('{"price": 3}\n')
    with pytest.raises(FileError, match="has a line of another form"):
        Remembered(watch, path)
