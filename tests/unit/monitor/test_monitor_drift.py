import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from shipway.errors import ShipwayError
from shipway.lineage.documents import NumberStatistics, Statistics
from shipway.model.package import PackageInfo
from shipway.model.profile import Profiler, describe_predictions
from shipway.model.signature import InputColumn
from shipway.model.statistics import GRID_SHARE, describe_categories, describe_numbers
from shipway.monitor.drift import (
    cells,
    drift_of,
    feature_drift,
    jensen_shannon,
    kolmogorov_smirnov,
    stability_index,
    wasserstein,
)
from shipway.spec import MonitorSection
from shipway.spec.watch import FeatureThresholds

ROWS = 20_000
NONE = FeatureThresholds(psi=None, new_share=None, null_share=None)


def random(seed):
    return np.random.default_rng(seed)


SHAPES = {
    "normal": lambda draw, move: draw.normal(move, 1 + move, ROWS),
    "heavy tails": lambda draw, move: draw.standard_t(2, ROWS) * (1 + move),
    "skewed": lambda draw, move: draw.lognormal(move, 1.5, ROWS),
    "two humps": lambda draw, move: np.where(
        draw.random(ROWS) < 0.4 + move, draw.normal(-3, 1, ROWS), draw.normal(3, 1, ROWS)
    ),
    "far from zero": lambda draw, move: 1.6e9 + draw.normal(move, 1, ROWS),
    "counts": lambda draw, move: draw.poisson(3 + move, ROWS).astype(float),
    "mostly zero": lambda draw, move: np.where(draw.random(ROWS) < 0.97 - move, 0.0, draw.exponential(size=ROWS)),
    "two values": lambda draw, move: (draw.random(ROWS) < 0.2 + move).astype(float),
    "many equal": lambda draw, move: np.round(draw.normal(move, 2, ROWS)),
}


def info(inputs, task="regression"):
    return PackageInfo(
        name="m", task=task, label="y", classes=["a", "b"] if task != "regression" else [], inputs=inputs, features=[],
        trainer="sklearn", onnx=False, onnx_note="", libraries={},
    )  # fmt: skip


def compared(before, now):
    """Returns the reference's statistics and the counts of what came now."""
    is_text = pl.Series(before).dtype == pl.String
    if is_text:
        known = describe_categories(dict(pl.Series("x", before).drop_nulls().value_counts().iter_rows()))
    else:
        values = np.asarray(before, dtype=float)
        known = describe_numbers(np.sort(values[np.isfinite(values)]), int((~np.isfinite(values)).sum()))
    return known, profile({"x": known}, pl.DataFrame({"x": now})).columns["x"]


def profile(columns, frame, reference=None, prediction=None):
    inputs = [
        InputColumn(name=name, kind="category" if known.kind == "category" else "number", nullable=True)
        for name, known in columns.items()
    ]
    statistics = Statistics(rows=1, label=next(iter(columns.values())), columns=columns)
    profiler = Profiler(statistics, info(inputs), reference)
    profiler.update(frame, prediction)
    return profiler.profile()


@pytest.mark.parametrize("move", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_measures_of_numbers_agree_with_scipys(shape, move):
    before, now = SHAPES[shape](random(1), 0.0), SHAPES[shape](random(2), move)
    known, counts = compared(before, now)
    exact = stats.ks_2samp(before, now).statistic
    found = kolmogorov_smirnov(known, counts)
    assert exact - GRID_SHARE <= found <= exact + 1e-12
    exact = stats.wasserstein_distance(before, now) / before.std()
    found = wasserstein(known, counts)
    assert exact - 0.01 <= found <= exact + 1e-6
    p, q = (np.maximum(part, 1e-4) for part in cells(known, counts))
    assert stability_index(known, counts) == pytest.approx((rel_entr(p, q) + rel_entr(q, p)).sum())
    p, q = cells(known, counts)
    assert jensen_shannon(known, counts) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-9)
    assert (p.sum(), q.sum()) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("shape", ["counts", "two values", "many equal"])
def test_values_with_bins_of_their_own_give_the_exact_statistic(shape):
    before, now = SHAPES[shape](random(1), 0.0), SHAPES[shape](random(2), 0.3)
    known, counts = compared(before, np.clip(now, before.min(), before.max()))
    exact = stats.ks_2samp(before, np.clip(now, before.min(), before.max())).statistic
    assert kolmogorov_smirnov(known, counts) == pytest.approx(exact, abs=0.001)


@pytest.mark.slow
def test_indices_agree_with_evidentlys():
    import pandas as pd
    from evidently import Report
    from evidently.metrics import ValueDrift

    texts = np.array(["AA", "UA", "B6", "WN", "HA"])
    before = pd.DataFrame(
        {
            "carrier": random(1).choice(texts, ROWS, p=[0.4, 0.3, 0.15, 0.1, 0.05]),
            "hour": random(2).integers(0, 6, ROWS).astype(float),
            "size": random(3).normal(size=ROWS),
        }
    )
    now = pd.DataFrame(
        {
            "carrier": random(4).choice(texts, ROWS, p=[0.25, 0.3, 0.2, 0.1, 0.15]),
            "hour": np.maximum(random(5).integers(-1, 6, ROWS), 0).astype(float),
            "size": random(6).normal(0.3, 1.1, size=ROWS),
        }
    )
    asked = [(column, method) for column in before for method in ("psi", "jensenshannon")]
    asked += [("hour", "wasserstein"), ("size", "wasserstein")]
    report = Report([ValueDrift(column=column, method=method) for column, method in asked]).run(now, before)
    theirs = {pair: float(one["value"]) for pair, one in zip(asked, report.dict()["metrics"], strict=True)}
    for column in before:
        known, counts = compared(before[column].to_numpy(), now[column].to_numpy())
        # Numbers of many values they cut at equal widths, we at equal shares.
        tolerance = 0.03 if column == "size" else 1e-6
        assert stability_index(known, counts) == pytest.approx(theirs[column, "psi"], abs=tolerance)
        # Theirs has natural logarithms.
        natural = jensen_shannon(known, counts) * math.sqrt(math.log(2))
        assert natural == pytest.approx(theirs[column, "jensenshannon"], abs=tolerance)
        if column != "carrier":
            assert wasserstein(known, counts) == pytest.approx(theirs[column, "wasserstein"], abs=0.001)


@given(
    st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=300),
    st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1, max_size=300),
)
@settings(max_examples=80, deadline=None)
def test_any_numbers_keep_the_bounds(before, now):
    known, counts = compared(np.array(before), np.array(now))
    found = kolmogorov_smirnov(known, counts)
    assert 0 <= found <= stats.ks_2samp(before, now).statistic + 1e-9
    assert 0 <= jensen_shannon(known, counts) <= 1 + 1e-9
    assert stability_index(known, counts) >= 0
    distance = wasserstein(known, counts)
    exact = stats.wasserstein_distance(before, now) / (known.std or 1.0)
    assert 0 <= distance <= exact * (1 + 1e-6) + 1e-4
    # Never less than what the means are apart.
    apart = abs(np.mean(before) - np.mean(now)) / (known.std or 1.0)
    assert distance >= apart * (1 - 1e-6) - 1e-4


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=200),
    st.lists(st.sampled_from("abcdefghijk"), min_size=1, max_size=200),
)
@settings(max_examples=60, deadline=None)
def test_any_texts_keep_the_bounds(before, now):
    known, counts = compared(before, now)
    drift = feature_drift(known, counts, NONE)
    assert drift.new_share == pytest.approx(sum(value not in before for value in now) / len(now))
    assert 0 <= drift.js <= 1 + 1e-9
    assert drift.psi >= 0
    assert (drift.ks, drift.wasserstein, drift.null_share) == (None, None, 0)


def test_the_same_rows_have_not_moved():
    for before in (random(1).normal(size=5_000), random(1).choice(list("abc"), 5_000)):
        drift = feature_drift(*compared(before, before), FeatureThresholds(psi=0.0, js=0.01, ks=0.01, new_share=0.0))
        assert drift.exceeded == []
        assert drift.psi == pytest.approx(0, abs=1e-12)


def test_few_rows_of_the_same_kind_do_not_seem_to_drift():
    names = [f"c{place:03}" for place in range(300)]
    for before, now in (
        (random(1).normal(size=ROWS), random(2).normal(size=500)),
        (random(1).choice(names, ROWS), random(2).choice(names, 500)),
        (random(1).integers(0, 60, ROWS).astype(float), random(2).integers(0, 60, 500).astype(float)),
    ):
        assert stability_index(*compared(before, now)) < 0.1


def test_a_move_between_a_frequent_value_and_its_neighbours_shows():
    before = np.where(random(1).random(ROWS) < 0.98, 0.0, random(2).random(ROWS))
    now = np.where(random(3).random(ROWS) < 0.5, 0.0, random(4).random(ROWS))
    assert stability_index(*compared(before, now)) > 1


def test_each_threshold_counts_by_itself():
    known, counts = compared([None, 0.0, 1.0, 2.0] * 100, [None] * 300 + [5.0] * 100)
    strict = FeatureThresholds(psi=0.1, js=0.1, ks=0.1, wasserstein=0.1, null_share=0.4, new_share=0.0)
    drift = feature_drift(known, counts, strict)
    assert drift.exceeded == ["psi", "js", "wasserstein", "ks", "null_share"]
    assert (drift.nulls, drift.null_share, drift.new_share) == (0.75, 0.5, None)
    assert drift.ks == pytest.approx(1)
    assert feature_drift(known, counts, FeatureThresholds(psi=None, null_share=0.5)).exceeded == []


@pytest.mark.parametrize(
    ("before", "now"),
    [([math.nan] * 30, [1.0] * 30), ([1.0] * 30, [math.nan] * 30), ([1.0] * 30, np.empty(0))],
)
def test_without_values_there_is_no_distance(before, now):
    drift = feature_drift(*compared(np.array(before), np.asarray(now)), NONE)
    assert (drift.psi, drift.js, drift.ks, drift.wasserstein) == (None, None, None, None)
    assert drift.null_share == (None if len(now) == 0 else 1)


def test_without_texts_there_is_none_either():
    known = describe_categories({}, nulls=5)
    drift = feature_drift(known, profile({"x": known}, pl.DataFrame({"x": ["a", None]})).columns["x"], NONE)
    assert (drift.psi, drift.js, drift.new_share, drift.null_share) == (None, None, 1, 0.5)
    empty = profile({"x": known}, pl.DataFrame({"x": []}, schema={"x": pl.String})).columns["x"]
    drift = feature_drift(known, empty, NONE)
    assert (drift.psi, drift.new_share, drift.null_share, drift.nulls) == (None, None, None, None)


def test_an_older_package_has_coarser_measures():
    before = random(1).normal(size=ROWS)
    full, _ = compared(before, before)
    known = NumberStatistics.model_validate({**full.model_dump(), "grid": None})
    now = random(2).normal(0.5, 1, ROWS)
    counts = profile({"x": known}, pl.DataFrame({"x": now})).columns["x"]
    assert wasserstein(known, counts) is None
    assert kolmogorov_smirnov(known, counts) == pytest.approx(stats.ks_2samp(before, now).statistic, abs=0.05)
    assert stability_index(known, counts) == pytest.approx(stability_index(*compared(before, now)), abs=0.02)


def test_features_come_worst_first_and_ignored_ones_not_at_all():
    columns = {
        "calm": describe_numbers(np.sort(random(1).normal(size=5_000))),
        "moved": describe_numbers(np.sort(random(2).normal(size=5_000))),
        "text": describe_categories({"a": 3_000, "b": 2_000}),
        "left": describe_numbers(np.arange(50.0)),
    }
    frame = pl.DataFrame(
        {
            "calm": random(3).normal(size=2_000),
            "moved": random(4).normal(3, 1, 2_000),
            "text": ["a"] * 1_100 + ["b"] * 800 + ["new"] * 100,
            "left": np.zeros(2_000),
        }
    )
    odds = random(5).random((2_000, 1))
    reference = describe_predictions("regression", [], odds)
    counted = profile(columns, frame, reference, odds + 0.5)
    section = MonitorSection(
        ignore=["left"],
        columns={"calm": FeatureThresholds(psi=9.0), "text": FeatureThresholds(psi=None, new_share=0.04)},
    )
    statistics = Statistics(rows=1, label=columns["calm"], columns=columns)
    found, prediction = drift_of(statistics, reference, counted, section)
    assert list(found) == ["moved", "text", "calm"]
    assert [drift.exceeded for drift in found.values()] == [["psi"], ["new_share"], []]
    assert found["text"].new_values == {"new": 100}
    assert prediction.psi > 1
    assert prediction.js > 0.5
    with pytest.raises(ShipwayError, match="rows of another model"):
        drift_of(statistics, None, counted, section)
    blind, nothing = drift_of(statistics, None, profile(columns, frame), section)
    assert list(blind) == list(found)
    assert (nothing.psi, nothing.js) == (None, None)


def test_cells_hold_a_value_each_where_there_are_rows_enough():
    known = describe_categories({"a": 600, "b": 395, "c": 5})
    counts = profile({"x": known}, pl.DataFrame({"x": ["a"] * 60 + ["b"] * 35 + ["c"] * 5})).columns["x"]
    before, now = cells(known, counts)
    # Of 100 rows c's half of one is too few for a cell; the last is for what is not listed.
    assert before.tolist() == pytest.approx([0.6, 0.395, 0.005, 0])
    assert now.tolist() == pytest.approx([0.6, 0.35, 0.05, 0])
