"""Ratios, differences and the verdict against figures computed by hand."""

import copy

import pytest

from prunus.errors import InputError
from prunus.report import complete, json_schema, validate, verdict
from report.report_facts import minimal, realistic


def test_ratios_are_dense_over_pruned():
    ratio = complete(realistic())["ratio"]
    assert ratio["parameters"] == 148_298 / 40_118
    assert ratio["macs"] == 9_146_880 / 2_561_126
    assert ratio["latency_p90"] == 0.911 / 0.47


def test_paired_latency_ratio_wins_over_the_ratio_of_medians():
    facts = realistic()
    assert complete(facts)["ratio"]["latency_median"] == 1.96
    del facts["pruned"]["latency"]["ratio_to_dense"]
    assert complete(facts)["ratio"]["latency_median"] == 0.842 / 0.428


def test_ratio_to_nothing_is_unknown_not_infinite():
    facts = minimal()
    facts["pruned"]["nonzeros"] = 0
    ratio = complete(facts)["ratio"]
    assert ratio["nonzeros"] is None
    assert ratio["latency_median"] is None
    assert ratio["file_bytes"] is None


def test_differences_are_pruned_minus_dense_per_split():
    difference = complete(realistic())["difference"]
    assert difference["test.top1"] == pytest.approx(0.9046 - 0.9071)
    assert difference["validation.loss"] == pytest.approx(0.2544 - 0.2481)
    assert set(complete(minimal())["difference"]) == {"validation.top1"}


def test_a_metric_that_the_pruned_model_lacks_has_no_difference():
    facts = realistic()
    del facts["pruned"]["metrics"]["test"]["top5"]
    assert complete(facts)["difference"]["test.top5"] is None


def test_typed_figures_are_replaced_by_computed_ones():
    facts = realistic() | {
        "ratio": {"macs": 100.0, "nnz": float("inf")},
        "verdict": ["It is perfect."],
        "difference": {},
    }
    done = complete(facts)
    assert done["ratio"]["macs"] == pytest.approx(3.5714, abs=1e-4)
    assert "It is perfect." not in done["verdict"]


def test_completing_leaves_the_given_facts_alone_and_is_idempotent():
    facts = realistic()
    before = copy.deepcopy(facts)
    done = complete(facts)
    assert facts == before
    assert complete(done) == done


def test_headline_names_work_size_and_accuracy():
    expected = (
        "3.57× fewer MACs and 3.70× fewer parameters, 0.25 points less top1 on the test split (90.71 % → 90.46 %)."
    )
    assert verdict(realistic())[0] == expected


def test_latency_efficiency_is_latency_ratio_over_macs_ratio():
    # 1.96 / 3.5714 = 0.549
    assert "latency efficiency 55 %" in verdict(realistic())[1]


def test_random_baseline_prices_the_criterion():
    text = " ".join(verdict(realistic()))
    assert "Pruned at random to the same size and trained alike, it reaches 88.52 % top1" in text
    assert "the criterion is worth 1.94 points." in text


def test_unstructured_zeros_are_said_to_buy_no_time():
    said = verdict(minimal())
    assert said[0].startswith("10.0× fewer non-zero weights, 0.50 points more top1 on the validation split")
    assert any("90.0 % of the remaining parameters are zero" in sentence for sentence in said)
    assert any("buy no time here" in sentence for sentence in said)
    assert any("there was no test split" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("paired", "words"),
    [(0.8, "It got slower: 0.800×"), (1.01, "It got no faster"), (3.5, "the saved work became time")],
)
def test_speed_is_said_as_measured(paired, words):
    facts = realistic()
    facts["pruned"]["latency"]["ratio_to_dense"] = paired
    assert any(words in sentence for sentence in verdict(facts))


@pytest.mark.parametrize("paired", [0.64, 1.0])
def test_odd_channel_counts_are_blamed_where_there_are_any_and_nothing_was_gained(paired):
    facts = realistic()
    facts["pruned"]["latency"] |= {"ratio_to_dense": paired, "runtime": "onnxruntime"}
    sizes = [("conv1", "channel", 32, 19), ("conv2", "channel", 24, 13), ("fc", "feature", 64, 37)]
    facts["groups"] = [dict(zip(("name", "kind", "size", "kept"), row, strict=True)) for row in sizes]
    (said,) = (sentence for sentence in verdict(facts) if sentence.startswith("It got"))
    reason = (
        "2 channel counts are between the steps of kernels now, such as conv1 (32 → 19, no multiple of 8), and kernels"
    )
    assert said.endswith(f": {reason} of onnxruntime are often slower there; try round_to: auto.")
    facts["groups"][0]["kept"], facts["groups"][1]["kept"] = 24, 12
    (said,) = (sentence for sentence in verdict(facts) if sentence.startswith("It got"))
    assert "round_to" not in said
    assert ("calls and memory traffic" in said) == (paired == 1.0)


@pytest.mark.parametrize(("kept", "blamed"), [(19, True), (24, False)])
def test_odd_channel_counts_are_blamed_where_less_was_gained_than_macs_promise(kept, blamed):
    facts = realistic()
    facts["groups"] = [{"name": "conv1", "kind": "channel", "size": 32, "kept": kept}]
    said = verdict(facts)[1]
    assert "latency efficiency 55 %" in said
    assert ("conv1 (32 → 19, no multiple of 8)" in said) == blamed
    assert ("calls and memory traffic" in said) != blamed


def test_a_run_that_changed_nothing_says_so():
    facts = minimal()
    facts["pruned"] = facts["dense"]
    assert verdict(facts)[0].startswith("The run made the model no smaller")


def test_a_failed_proof_is_shouted():
    facts = realistic()
    facts["proof"] |= {"passed": False, "max_rel": 0.5}
    assert any(sentence.startswith("NOT proved") for sentence in verdict(facts))


def test_less_loss_is_better_and_more_is_worse():
    facts = minimal()
    facts["recipe"] = {"metrics": ["loss"]}
    facts["dense"]["metrics"] = {"validation": {"loss": 0.5}}
    facts["pruned"]["metrics"] = {"validation": {"loss": 0.4}}
    assert any(sentence.startswith("No loss was lost") for sentence in verdict(facts))
    facts["pruned"]["metrics"] = {"validation": {"loss": 0.6}}
    assert any("loss is within 0.10 of the dense" in sentence for sentence in verdict(facts))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("dense", "macs"), "many", "dense.macs: got 'many'"),
        (("dense", "macs"), -1, "dense.macs: got -1"),
        (("dense", "energy_joules"), float("inf"), "dense.energy_joules: got inf"),
        (("dense", "energy_joules"), float("nan"), "dense.energy_joules: got nan"),
        (("colour",), "red", "colour: got 'red'"),
        (("schema",), "prunus-report/9", "schema: got 'prunus-report/9'"),
        (("proof", "passed"), None, "proof.passed: got None"),
    ],
)
def test_a_wrong_fact_is_named_with_its_path(path, value, words):
    facts = realistic()
    place = facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match="report facts") as caught:
        validate(facts)
    assert words in str(caught.value)


def test_schema_lists_every_top_level_key_of_the_facts():
    assert set(realistic()) <= set(json_schema()["properties"])
    assert json_schema()["additionalProperties"] is False
