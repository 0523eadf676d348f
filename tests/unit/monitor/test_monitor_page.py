"""The page of a check, its trends, and rows rebuilt from counts."""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipway.lineage.documents import (
    CategoryStatistics,
    Compared,
    Evaluation,
    FeatureDrift,
    MonitorFindings,
    MonitorResult,
    NumberStatistics,
    PredictionDrift,
    SliceMetrics,
)
from shipway.model.bins import Bins
from shipway.model.profile import CategoryCounts, NumberCounts
from shipway.model.statistics import count_numbers, describe_numbers
from shipway.monitor.observation import LabelCounts, Observation
from shipway.monitor.page import check_page
from shipway.monitor.rebuilt import OTHER, as_listed, counted_rows, training_rows
from shipway.monitor.trends import trends_section

EVIL = "<script>alert('1')</script>"
PREDICTION = "(prediction)"


def found(day: int = 1, **changes: Any) -> MonitorFindings:
    whole: dict[str, Any] = {
        "model": "parcels",
        "version": "3",
        "since": f"2026-01-{day:02}T00:00:00+00:00",
        "until": f"2026-01-{day + 1:02}T00:00:00+00:00",
        "rows": 1000,
        "decision": "retrain",
        "reasons": [f"psi of {EVIL} is too high", "no labels: none came"],
        "measures": {
            EVIL: FeatureDrift(kind="category", psi=0.7, new_share=0.2, new_values={EVIL: 3}, exceeded=["psi"]),
            "weight": FeatureDrift(kind="number", psi=0.01, ks=0.02),
        },
        "drifted": [EVIL],
        "drifted_share": 0.5,
        "prediction": PredictionDrift(psi=0.3, js=0.2),
        "performance": {"roc_auc": Compared(value=0.8, baseline=0.9)},
        "slices": [SliceMetrics(column=EVIL, value=EVIL, rows=3, metrics={"roc_auc": 0.7})],
        "service": {"error_rate": Compared(value=0.002, baseline=0.001)},
        "rules": [
            MonitorResult(rule="drifted_share <= 0.3", metric="drifted_share", value=0.5, bound=0.3, violated=True)
        ],
    }
    return MonitorFindings.model_validate({**whole, **changes})


def seen(**changes: Any) -> Observation:
    whole: dict[str, Any] = {
        "name": "parcels",
        "version": "3",
        "digest": "sha256:1",
        "since": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-02T00:00:00+00:00",
        "source": "log",
        "place": f"s3://bucket/{EVIL}",
        "rows": 1000,
        "labels": LabelCounts(since="2025-12-01T00:00:00+00:00", predicted=30_000, labelled=20_000),
        "notes": ["no labels: none came"],
    }
    return Observation.model_validate({**whole, **changes})


REFERENCES: dict[str, NumberStatistics | CategoryStatistics] = {
    EVIL: CategoryStatistics(rows=100, nulls=0, counts={"a": 60, EVIL: 30}, others=10),
    "weight": describe_numbers(np.arange(100.0)),
    PREDICTION: describe_numbers(np.linspace(0, 1, 50)),
}


def counted(reference: NumberStatistics | CategoryStatistics, values: Any) -> NumberCounts | CategoryCounts:
    if isinstance(reference, CategoryStatistics):
        counts = {name: values.count(name) for name in reference.counts}
        others = len(values) - sum(counts.values())
        return CategoryCounts(rows=len(values), counts=counts, others=others, new=others)
    assert reference.grid is not None
    array = np.array(values, dtype=np.float64)
    counts, sums = count_numbers(array, Bins(np.array(reference.grid.edges)), reference.mean or 0.0)
    return NumberCounts(
        rows=len(array),
        counts=counts.tolist(),
        sums=sums.tolist(),
        least=float(array.min()) if len(array) else None,
        greatest=float(array.max()) if len(array) else None,
    )


COUNTS = {
    EVIL: counted(REFERENCES[EVIL], ["a", "b", EVIL]),
    "weight": counted(REFERENCES["weight"], [5.0, 60.0, 200.0]),
    PREDICTION: counted(REFERENCES[PREDICTION], [0.1, 0.9]),
}


def page(findings: MonitorFindings, **changes: Any) -> str:
    return check_page(findings, seen(**changes), [found(1), found(2, version="2")], REFERENCES, COUNTS, PREDICTION)


def test_findings_first_then_the_decision_then_features_worst_first() -> None:
    text = page(found(4))
    order = ["Findings", "Decision", "Features, worst first", "Predictions", "Performance", "Service", "Trends"]
    places = [text.index(f"<h2>{title}") for title in order]
    assert places == sorted(places)
    assert text.index("&lt;script&gt;", places[2]) < text.index("<td>weight</td>")
    assert "20,000 of 30,000 predictions since 2025-12-01 00:00 UTC have a label" in text
    assert text.count("no labels: none came") == 1


def test_nothing_of_the_data_becomes_markup() -> None:
    text = page(found(4))
    assert "<script" not in text
    assert "alert(&#x27;1&#x27;)" in text


def test_what_was_not_judged_is_not_called_held_or_drifted() -> None:
    rule = MonitorResult(rule="performance.f1 >= test - 0.1", metric="performance.f1", value=0.7, violated=False)
    text = page(found(4, rules=[rule], drifted=[], drifted_share=None))
    assert "not judged" in text
    assert ">held<" not in text
    assert text.count("too few rows") == 2
    assert ">drifted<" not in text


def test_slices_are_shown_beside_those_of_the_test_part() -> None:
    tested = SliceMetrics(column=EVIL, value=EVIL, rows=90, metrics={"roc_auc": 0.8})
    evaluation = Evaluation(task="binary", model_digest="m", data_version="v", rows=90, metrics={}, slices=[tested])
    assert "0.7 (0.8)" in page(found(4), evaluation=evaluation)
    assert "In brackets" not in page(found(4))


def test_every_chart_is_well_formed() -> None:
    for text in (page(found(4)), trends_section([found(1)]), trends_section([found(1, rows=0, measures={})])):
        charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        assert charts
        for chart in charts:
            assert "nan" not in ElementTree.canonicalize(chart).lower().replace("nanum", "")


def test_a_check_that_measured_nothing_has_a_page() -> None:
    empty = found(
        1, decision="ok", reasons=[], measures={}, drifted=[], drifted_share=None, prediction={}, performance={}
    )
    text = check_page(
        empty.model_copy(update={"slices": [], "service": {}, "rules": [], "rows": 0}),
        seen(labels=None, notes=[], rows=0),
        [],
        {},
        {},
        PREDICTION,
    )
    for said in (
        "Every rule held",
        "no rules",
        "No feature was compared",
        "no monitor.labels",
        "This is the first check",
    ):
        assert said in text
    assert "What could not be looked at" not in text


def test_trends_break_where_nothing_was_measured_and_show_new_versions() -> None:
    checks = [
        found(day, prediction=PredictionDrift(psi=None if day == 3 else 0.1 * day), version="3" if day < 5 else "4")
        for day in range(1, 8)
    ]
    chart = next(part for part in trends_section(checks).split("<figure") if "prediction PSI" in part)
    assert chart.count("<polyline") == 2
    assert chart.count("<circle") == 6
    assert ">v4<" in chart
    assert "2026-01-04T00:00:00+00:00: " not in chart
    share = next(part for part in trends_section(checks).split("<figure") if "share of drifted" in part)
    assert 'stroke="#b3261e"' in share


def test_rebuilt_rows_are_distributed_as_what_was_counted() -> None:
    from scipy.stats import ks_2samp

    draw = np.random.default_rng(0)
    before, now = draw.normal(size=20_000), draw.exponential(size=30_000)
    # Half of them zero, as rain is.
    now[draw.random(30_000) < 0.5] = 0.0
    references = {"x": describe_numbers(np.sort(before), nulls=5_000)}
    counts = {"x": counted(references["x"], now)}
    rebuilt = training_rows(references, 10_000)["x"]
    assert rebuilt.null_count() == 2_000
    assert ks_2samp(rebuilt.drop_nulls(), before).statistic < 0.01
    found_rows = counted_rows(references, counts, 10_000)["x"].to_numpy()
    # To within a bin of the training part's.
    at = np.linspace(0.05, 0.9, 18)
    assert np.abs(np.quantile(found_rows, at) - np.quantile(now, at)).max() < 0.1
    assert np.isclose([found_rows.min(), found_rows.max()], [now.min(), now.max()], atol=0.2).all()


def test_whole_numbers_and_frequent_values_come_back_as_such() -> None:
    values = np.sort(np.random.default_rng(0).poisson(2.0, 5_000).astype(np.float64))
    rebuilt = training_rows({"x": describe_numbers(values)}, 5_000)["x"]
    assert set(rebuilt) <= set(range(int(values.max()) + 1))
    shares = [abs((rebuilt == value).mean() - (values == value).mean()) for value in range(5)]
    assert max(shares) < 0.02
    assert training_rows({"x": describe_numbers(np.zeros(0), nulls=3)}, 4)["x"].null_count() == 4


def test_texts_that_are_not_listed_share_a_name() -> None:
    reference = CategoryStatistics(rows=10, nulls=2, counts={"a": 4, "b": 2}, others=2)
    rebuilt = training_rows({"x": reference}, 1_000)["x"]
    assert dict(rebuilt.value_counts().iter_rows()) == {"a": 400, "b": 200, OTHER: 200, None: 200}
    counts = CategoryCounts(rows=4, nulls=1, counts={"a": 0, "b": 2}, others=1)
    found_rows = counted_rows({"x": reference}, {"x": counts}, 1_000)["x"]
    assert dict(found_rows.value_counts().iter_rows()) == {"b": 500, OTHER: 250, None: 250}
    real = pl.DataFrame({"x": ["a", "z", None, "b"]})
    assert as_listed(real, {"x": reference})["x"].to_list() == ["a", OTHER, None, "b"]


@given(
    before=st.lists(st.floats(-1e9, 1e9), max_size=60),
    now=st.lists(st.floats(-1e9, 1e9), max_size=60),
    rows=st.integers(1, 50),
)
@settings(max_examples=60, deadline=None)
def test_any_numbers_can_be_rebuilt(before: list[float], now: list[float], rows: int) -> None:
    references = {"x": describe_numbers(np.sort(np.array(before, dtype=np.float64)))}
    found_rows = counted_rows(references, {"x": counted(references["x"], now)}, rows)["x"]
    assert len(found_rows) == rows
    if not now:
        assert found_rows.null_count() == rows
    else:
        assert min(now) - 1 <= found_rows.min() <= found_rows.max() <= max(now) + 1


@pytest.mark.parametrize("decision", ["ok", "alert", "retrain", "rollback"])
def test_the_decision_stands_at_the_top(decision: str) -> None:
    assert f">{decision}</span></h1>" in page(found(4, decision=decision))
