"""Every kind of rule, passed and failed, and what cannot be judged."""

import json
import math

import pytest

from shipway.errors import DigestMismatchError
from shipway.gate.page import gate_page
from shipway.gate.rules import judge, judge_model
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, ChampionComparison, Evaluation, SliceMetrics, read_document
from shipway.spec import GateRule


def evaluation(metrics=None, slices=(), champion=None, min_slice_rows=50):
    return Evaluation(
        task="binary",
        model_digest="sha256:m",
        data_version="sha256:d",
        rows=1000,
        metrics={"roc_auc": 0.85, "log_loss": 0.4} if metrics is None else metrics,
        slices=[SliceMetrics(column=c, value=v, rows=n, metrics=m) for c, v, n, m in slices],
        min_slice_rows=min_slice_rows,
        champion=champion,
    )


def only(rule, measured):
    blessing = judge([rule], measured)
    assert len(blessing.rules) == 1
    assert blessing.decision == ("blessed" if blessing.rules[0].passed else "rejected")
    assert bool(blessing.reasons) != blessing.rules[0].passed
    return blessing.rules[0]


@pytest.mark.parametrize(
    ("bound", "passed"),
    [
        ({"min": 0.84}, True),
        ({"min": 0.85}, True),
        ({"min": 0.86}, False),
        ({"max": 0.85}, True),
        ({"max": 0.84}, False),
    ],
)
def test_bounds(bound, passed):
    result = only(GateRule(metric="roc_auc", **bound), evaluation())
    assert result.passed is passed
    assert result.value == 0.85
    assert result.bound == next(iter(bound.values()))
    assert result.rule == f"roc_auc {'>=' if 'min' in bound else '<='} {result.bound}"


def test_the_reason_names_rule_value_and_bound():
    blessing = judge([GateRule(metric="roc_auc", min=0.99)], evaluation())
    assert blessing.reasons == ["roc_auc >= 0.99: found 0.85, allowed 0.99"]


def test_all_rules_are_judged_and_all_failures_listed():
    rules = [
        GateRule(metric="roc_auc", min=0.9, max=0.95),
        GateRule(metric="log_loss", max=0.5),
        GateRule(metric="log_loss", max=0.1),
    ]
    blessing = judge(rules, evaluation())
    assert [result.passed for result in blessing.rules] == [False, True, True, False]
    assert len(blessing.reasons) == 2
    assert blessing.decision == "rejected"


def test_the_blessing_names_model_and_evaluation():
    measured = evaluation()
    blessing = judge([GateRule(metric="roc_auc", min=0.5)], measured)
    assert blessing.decision == "blessed"
    assert (blessing.model_digest, blessing.evaluation_digest) == ("sha256:m", measured.content_digest())


def test_no_rules_no_blessing():
    blessing = judge([], evaluation())
    assert blessing.decision == "rejected"
    assert blessing.reasons == ["no gates are configured: nothing is blessed by default"]


@pytest.mark.parametrize("bound", [{"min": 0.0}, {"max": 1.0}])
def test_a_metric_that_was_not_measured_fails(bound):
    result = only(GateRule(metric="precision", **bound), evaluation())
    assert (result.passed, result.value, result.note) == (False, None, "precision was not measured")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bound", [{"min": 0.0}, {"max": 1.0}])
def test_what_is_no_finite_number_never_passes(value, bound, monkeypatch):
    # No such document can be written or read; the rule holds all the same.
    monkeypatch.setattr(Evaluation, "content_digest", lambda _: "sha256:e")
    measured = evaluation().model_copy(update={"metrics": {"roc_auc": value}})
    assert not judge([GateRule(metric="roc_auc", **bound)], measured).rules[0].passed


def compared(**worse_by):
    return ChampionComparison(
        version="3", digest="sha256:c", metrics=dict.fromkeys(worse_by, 0.86), difference={}, worse_by=worse_by
    )


@pytest.mark.parametrize(("worse", "passed"), [(0.01, True), (0.011, False), (-0.2, True)])
def test_not_worse_than_the_champion(worse, passed):
    result = only(GateRule(metric="roc_auc", champion_margin=0.01), evaluation(champion=compared(roc_auc=worse)))
    assert (result.passed, result.value, result.bound) == (passed, worse, 0.01)
    assert "champion 3" in result.rule
    assert "0.8500" in result.note
    assert "0.8600" in result.note


def test_without_a_champion_the_comparison_passes_and_says_so():
    result = only(GateRule(metric="roc_auc", champion_margin=0.0), evaluation())
    assert (result.passed, result.note) == (True, "no champion to compare with")


def test_a_metric_not_compared_with_the_champion_fails():
    result = only(GateRule(metric="roc_auc", champion_margin=0.5), evaluation(champion=compared(log_loss=0.0)))
    assert (result.passed, result.value) == (False, None)


CARRIERS = [
    ("carrier", "AA", 500, {"roc_auc": 0.9}),
    ("carrier", "UA", 400, {"roc_auc": 0.8}),
    ("carrier", "tiny", 49, {"roc_auc": 0.1}),
    ("carrier", "one class", 90, {"accuracy": 1.0}),
    ("origin", "JFK", 900, {"roc_auc": 0.2}),
]


@pytest.mark.parametrize(("bound", "passed"), [(0.11, True), (0.09, False)])
def test_slice_gap_is_between_the_greatest_and_the_least_comparable_slice(bound, passed):
    result = only(GateRule(metric="roc_auc", slice="carrier", max_gap=bound), evaluation(slices=CARRIERS))
    assert result.passed is passed
    assert result.value == pytest.approx(0.1)
    assert result.note == "UA: 0.8000, AA: 0.9000"


@pytest.mark.parametrize("column", ["origin", "elsewhere"])
def test_slice_gap_with_nothing_to_compare_fails(column):
    result = only(GateRule(metric="roc_auc", slice=column, max_gap=0.9), evaluation(slices=CARRIERS))
    assert (result.passed, result.value) == (False, None)
    assert "nothing to compare" in result.note


def test_a_model_that_is_not_the_evaluated_one_is_refused(tmp_path):
    (tmp_path / "weights").write_text("1")
    measured = evaluation().model_copy(update={"model_digest": digest_tree(tmp_path)})
    rules = [GateRule(metric="roc_auc", min=0.5)]
    assert judge_model(rules, measured, tmp_path).decision == "blessed"
    (tmp_path / "weights").write_text("2")
    with pytest.raises(DigestMismatchError, match="the evaluation is of model"):
        judge_model(rules, measured, tmp_path)


def test_the_page_tells_and_escapes():
    slices = [("c", "<b>x</b>", 99, {"roc_auc": 0.9}), ("c", "y", 99, {"roc_auc": 0.1})]
    html = gate_page(judge([GateRule(metric="roc_auc", slice="c", max_gap=0.1)], evaluation(slices=slices)))
    assert "rejected" in html
    assert "<b>x</b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "blessed" in gate_page(judge([GateRule(metric="roc_auc", min=0.1)], evaluation()))
    assert "nothing is blessed by default" in gate_page(judge([], evaluation()))


@pytest.mark.parametrize(("bound", "decision"), [(0.5, "blessed"), (0.99, "rejected")])
def test_the_component(tmp_path, bound, decision):
    from kfp import dsl

    from shipway.gate.component import gate
    from shipway.spec import dump_section

    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    evaluation().model_copy(update={"model_digest": digest_tree(model)}).write(tmp_path / "evaluation")
    blessing = dsl.Artifact(name="b", uri=str(tmp_path / "blessing"), metadata={})
    returned = gate.python_func(
        evaluation=dsl.Artifact(name="e", uri=str(tmp_path / "evaluation"), metadata={}),
        model=dsl.Model(name="m", uri=str(model), metadata={}),
        blessing=blessing,
        report=dsl.HTML(name="r", uri=str(tmp_path / "report"), metadata={}),
        gates=dump_section([GateRule(metric="roc_auc", min=bound), GateRule(metric="roc_auc", champion_margin=0.0)]),
    )
    assert returned == decision == blessing.metadata["decision"]
    assert read_document(Blessing, tmp_path / "blessing").decision == decision
    record = json.loads((tmp_path / "step.json").read_text())
    assert record["status"] == ("succeeded" if decision == "blessed" else "rejected")
    assert record["facts"]["decision"] == decision
    assert record["facts"]["gates"][0] == {
        "rule": f"roc_auc >= {bound}",
        "metric": "roc_auc",
        "value": 0.85,
        "bound": bound,
        "passed": decision == "blessed",
        "note": "",
    }
    assert record["reason"] == ([] if decision == "blessed" else ["roc_auc >= 0.99: found 0.85, allowed 0.99"])
