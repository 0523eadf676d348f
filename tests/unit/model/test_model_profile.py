import json
import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import CategoryStatistics, NumberStatistics, Statistics
from shipway.model.bins import Bins
from shipway.model.package import PackageInfo
from shipway.model.profile import Profile, Profiler, describe_predictions, prediction_values
from shipway.model.signature import InputColumn
from shipway.model.statistics import GRID_SHARE, count_numbers, describe_categories, describe_numbers

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
INPUTS = [
    InputColumn(name="delay", kind="number", nullable=True),
    InputColumn(name="night", kind="boolean", nullable=True),
    InputColumn(name="carrier", kind="category", nullable=True),
]


def info(task="binary", classes=("no", "yes"), inputs=INPUTS):
    return PackageInfo(
        name="late", task=task, label="late", classes=list(classes), inputs=inputs, features=[], trainer="sklearn",
        onnx=False, onnx_note="", libraries={},
    )  # fmt: skip


def statistics(**columns):
    known = {
        "delay": describe_numbers(np.arange(100.0), nulls=5),
        "night": describe_categories({"true": 30, "false": 70}, nulls=5),
        "carrier": describe_categories({"AA": 60, "UA": 40}, nulls=5),
        **columns,
    }
    return Statistics(rows=105, label=known["night"], columns=known)


def frame(**columns):
    rows = {"delay": [1.5, None, 250.0], "night": [True, None, False], "carrier": ["AA", None, "ZZ"], **columns}
    return pl.DataFrame(rows, strict=False)


def profile_of(rows, known=None, reference=None, prediction=None, model=None):
    profiler = Profiler(known or statistics(), model or info(), reference)
    profiler.update(rows, prediction)
    return profiler.profile()


@given(arrays(np.float64, st.integers(1, 400), elements=FINITE))
@settings(max_examples=60, deadline=None)
def test_the_grid_counts_every_value_once(values):
    found = describe_numbers(np.sort(values))
    grid = found.grid
    edges = np.array(grid.edges)
    assert np.all(np.diff(edges) > 0)
    assert len(grid.counts) == len(grid.sums) == len(edges) + 1
    bins = np.searchsorted(edges, values, side="right")
    assert grid.counts == np.bincount(bins, minlength=len(edges) + 1).tolist()
    assert sum(grid.counts) == sum(found.counts) == len(values)
    assert sum(grid.sums) == pytest.approx(0, abs=1e-6 * max(1.0, np.abs(values).sum()))


def test_a_frequent_value_has_a_bin_of_its_own_also_as_float32():
    values = np.sort(np.concatenate([np.full(900, 0.1), np.linspace(0, 1, 100)]))
    grid = describe_numbers(values).grid
    edges = np.array(grid.edges)
    own = np.searchsorted(edges, 0.1, side="right")
    assert grid.counts[own] == 900
    for near in (0.1 - 1e-9, float(np.float32(0.1)), 0.1 + 5e-8):
        assert np.searchsorted(edges, near, side="right") == own
    for other in (0.099, 0.101):
        assert np.searchsorted(edges, other, side="right") != own


def test_no_other_bin_holds_more_than_its_share():
    values = np.sort(np.random.default_rng(0).lognormal(size=20_000))
    assert max(describe_numbers(values).grid.counts) <= GRID_SHARE * 20_000 + 2


def test_a_constant_is_told_from_what_is_beside_it():
    for constant in (0.0, 7.0, -1e6):
        found = describe_numbers(np.full(50, constant))
        edges = found.grid.edges
        places = np.searchsorted(edges, [constant - 1, constant, constant + 1], side="right").tolist()
        assert (found.std, found.mean, places) == (0.0, constant, [0, 1, 2])


def test_no_values_leave_one_empty_bin():
    found = describe_numbers(np.empty(0), nulls=3)
    assert (found.rows, found.nulls, found.mean, found.grid.counts) == (3, 3, None, [0])
    counts = profile_of(frame(), statistics(delay=found)).columns["delay"]
    assert (counts.counts, counts.nulls) == ([2], 1)


def test_categories_are_known_beyond_the_hundredth():
    counts = {f"c{place:05}": 20_000 - place for place in range(12_000)}
    found = describe_categories(counts)
    assert (len(found.counts), len(found.rare), found.distinct) == (100, 9_900, 12_000)
    assert found.rows == sum(found.counts.values()) + found.others
    assert not found.complete
    assert describe_categories(dict(list(counts.items())[:10_000])).complete
    assert not CategoryStatistics(rows=9, nulls=0, counts={"a": 8}, others=1).complete
    assert CategoryStatistics(rows=9, nulls=0, counts={"a": 9}, others=0).complete


def test_rows_are_counted_by_the_bins_of_the_statistics():
    found = profile_of(frame())
    assert found.rows == 3
    delay, night, carrier = (found.columns[name] for name in ("delay", "night", "carrier"))
    assert (delay.rows, delay.nulls, sum(delay.counts), delay.counts[-1]) == (3, 1, 2, 1)
    assert (delay.least, delay.greatest) == (1.5, 250.0)
    assert sum(delay.sums) == pytest.approx(1.5 + 250 - 2 * 49.5)
    assert (night.counts, night.nulls, night.others) == ({"false": 1, "true": 1}, 1, 0)
    assert (carrier.counts, carrier.others, carrier.new) == ({"AA": 1, "UA": 0}, 1, 1)
    assert carrier.new_values == {"ZZ": 1}


def test_what_is_no_finite_number_counts_as_null():
    counts = profile_of(frame(delay=[math.nan, math.inf, -math.inf])).columns["delay"]
    assert (counts.rows, counts.nulls, sum(counts.counts), counts.least) == (3, 3, 0, None)


def test_enormous_numbers_leave_the_document_json(tmp_path):
    found = profile_of(frame(delay=[1.7e308, 1.7e308, -1.7e308]))
    found.write(tmp_path / "profile.json")
    json.loads((tmp_path / "profile.json").read_text(), parse_constant=pytest.fail)
    assert Profile.model_validate_json((tmp_path / "profile.json").read_text()) == found


@pytest.mark.parametrize(
    "night",
    [[1.0, None, 0.0], [1, None, 0], [True, None, False], [1.0, math.nan, 0.0]],
)
def test_a_boolean_may_come_as_a_number(night):
    counts = profile_of(frame(night=night)).columns["night"]
    assert (counts.counts, counts.nulls) == ({"false": 1, "true": 1}, 1)


def test_categories_may_come_as_a_categorical():
    rows = frame().with_columns(pl.col("carrier").cast(pl.Categorical))
    assert profile_of(rows).columns["carrier"].counts == {"AA": 1, "UA": 0}


def test_a_rare_value_is_no_new_one():
    known = describe_categories({f"c{place:03}": 200 - place for place in range(150)})
    counts = profile_of(frame(carrier=["c000", "c140", "new"]), statistics(carrier=known)).columns["carrier"]
    assert (counts.counts["c000"], counts.others, counts.new) == (1, 2, 1)


def test_where_not_every_value_is_listed_nobody_can_tell_a_new_one():
    known = CategoryStatistics(rows=105, nulls=0, counts={"AA": 100}, others=5)
    counts = profile_of(frame(), statistics(carrier=known)).columns["carrier"]
    assert (counts.others, counts.new, counts.new_values) == (1, None, {})
    assert counts.plus(counts).new is None


def test_an_older_package_is_counted_by_its_histogram():
    known = NumberStatistics(rows=4, nulls=0, mean=1.5, std=1.0, quantiles=[], edges=[1.0, 2.0], counts=[1, 1, 2])
    counts = profile_of(frame(delay=[0.5, 1.0, 9.0]), statistics(delay=known)).columns["delay"]
    assert counts.counts == [1, 1, 1]


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="missing columns carrier"):
        profile_of(frame().drop("carrier"))
    with pytest.raises(InputError, match="'delay'"):
        profile_of(frame(delay=["a", "b", "c"]))


def rows_strategy():
    return st.lists(
        st.tuples(
            st.one_of(st.none(), FINITE),
            st.one_of(st.none(), st.booleans()),
            st.one_of(st.none(), st.sampled_from(["AA", "UA", "x", "é", "🛫", "", *map(str, range(30))])),
        ),
        min_size=0,
        max_size=60,
    )


@given(rows_strategy(), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_parts_add_up_to_the_whole_in_any_grouping(rows, first, second):
    schema = {"delay": pl.Float64, "night": pl.Boolean, "carrier": pl.String}
    whole = pl.DataFrame(rows, schema=schema, orient="row")
    prediction = np.linspace(0, 1, 2 * len(rows)).reshape(-1, 2)
    reference = describe_predictions("binary", ["no", "yes"], np.random.default_rng(0).random((50, 2)))
    cuts = [0, *sorted((min(first, len(rows)), min(second, len(rows)))), len(rows)]
    a, b, c = (
        profile_of(whole[start:end], reference=reference, prediction=prediction[start:end])
        for start, end in pairwise(cuts)
    )
    expected = profile_of(whole, reference=reference, prediction=prediction)
    for found in (a.plus(b).plus(c), a.plus(b.plus(c))):
        sums = found.columns["delay"].sums
        assert sums == pytest.approx(expected.columns["delay"].sums, abs=1e-6)
        found.columns["delay"].sums = expected.columns["delay"].sums
        assert found.predictions.sums == pytest.approx(expected.predictions.sums)
        found.predictions.sums = expected.predictions.sums
        assert found == expected


def test_profiles_against_different_statistics_are_not_added():
    one, other = profile_of(frame()), profile_of(frame(), statistics(delay=describe_numbers(np.arange(9.0))))
    with pytest.raises(ShipwayError, match="cannot be added"):
        one.plus(other)


def test_many_new_values_leave_the_first_twenty_with_their_rows():
    names = [f"n{place:04}" for place in range(3_000)] * 2
    rows = pl.DataFrame({"delay": [0.0] * 6_000, "night": [True] * 6_000, "carrier": names})
    counts = profile_of(rows).columns["carrier"]
    assert (counts.new, counts.others) == (6_000, 6_000)
    assert counts.new_values == {f"n{place:04}": 2 for place in range(20)}
    long = profile_of(frame(carrier=["x" * 5_000 + "a", "x" * 5_000 + "b", None])).columns["carrier"]
    assert long.new_values == {"x" * 100: 2}


def test_predictions_are_counted_by_their_kind():
    odds = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    assert prediction_values(info(), odds).tolist() == pytest.approx([0.1, 0.8])
    assert prediction_values(info("regression", ()), np.array([[3.0], [4.0]])).tolist() == [3.0, 4.0]
    assert prediction_values(info("multiclass", (False, True)), odds).tolist() == ["false", "true"]
    assert prediction_values(info("multiclass", (1, 2)), odds).tolist() == ["1", "2"]
    for task, classes in (("binary", ["no", "yes"]), ("multiclass", ["no", "yes"])):
        assert len(prediction_values(info(task, classes), np.empty((0, 2)))) == 0


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_described_predictions_count_themselves(task):
    classes = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "regression": []}[task]
    odds = np.random.default_rng(1).dirichlet(np.ones(len(classes) or 2), 300)[:, : len(classes) or 1]
    known = describe_predictions(task, classes, odds)
    rows = pl.DataFrame({"delay": [0.0] * 300, "night": [True] * 300, "carrier": ["AA"] * 300})
    counts = profile_of(rows, reference=known, prediction=odds, model=info(task, classes)).predictions
    assert counts.counts == (known.counts if task == "multiclass" else known.grid.counts)
    assert profile_of(rows, reference=known, model=info(task, classes)).predictions.rows == 0
    assert profile_of(rows, prediction=odds, model=info(task, classes)).predictions is None


def test_long_columns_are_counted_as_short_ones():
    values = np.random.default_rng(2).normal(size=200_001)
    edges = np.linspace(-2, 2, 41)
    counts, sums = count_numbers(values, Bins(edges), 1.0)
    bins = np.searchsorted(edges, values, side="right")
    assert counts.tolist() == np.bincount(bins, minlength=42).tolist()
    assert sums == pytest.approx(np.bincount(bins, weights=values - 1.0, minlength=42))
