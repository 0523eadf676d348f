"""What is gathered of a version: its log or its batches, the labels that came, the service's figures."""

import gc
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from monitor_world import DATA, HOUR, NOW, UNTIL, World, parcels

from shipway.endpoints.log_windows import as_text
from shipway.errors import DigestMismatchError, InputError
from shipway.lineage.documents import Evaluation, Statistics
from shipway.model.package import PackageInfo
from shipway.model.profile import Profile, Profiler, prediction_values
from shipway.model.signature import InputColumn
from shipway.model.statistics import describe_categories
from shipway.monitor.gather import Sampler, Watched
from shipway.monitor.labels import Predicted, join_labels
from shipway.monitor.log_rows import Span, gather_log
from shipway.monitor.observation import LABELLED, OBSERVATION, PREDICTION, PROFILE, SAMPLE
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry
from shipway.spec.watch import LabelsSection


def read(world: World, name: str) -> pl.DataFrame:
    return pl.read_parquet(world.path / "observation" / name)


def profile_of(world: World, rows: pl.DataFrame) -> Profile:
    watched = Watched.read(world.package.path)
    profiler = Profiler(watched.statistics, watched.info, watched.predictions)
    profiler.update(rows, world.package.predict(rows))
    return profiler.profile()


def test_a_window_of_the_log_is_counted_and_nothing_else(world: World) -> None:
    before, within, after = (parcels(200, seed) for seed in (50, 51, 52))
    world.serve(before, NOW - 25 * HOUR)
    world.serve(within, NOW - 2 * HOUR, size=7)
    world.serve(after, NOW)
    other = world.release.model_copy(update={"version": "2", "digest": "sha256:" + "2" * 64})
    world.serve(after, NOW - 2 * HOUR, release=other)
    seen = world.observe(sample=100)
    assert (seen.rows, seen.since, seen.until) == (200, "2027-01-14T08:00:00+00:00", UNTIL)
    found = Profile.model_validate_json((world.path / "observation" / PROFILE).read_text())
    expected = profile_of(world, within)
    # The log holds whole numbers as floats, and sums are added part by part.
    assert found.model_dump(exclude={"columns"}) | {"predictions": None} == expected.model_dump(exclude={"columns"}) | {
        "predictions": None
    }
    for name, counts in expected.columns.items():
        assert found.columns[name].counts == counts.counts
        assert found.columns[name].nulls == counts.nulls
    assert found.predictions is not None
    assert expected.predictions is not None
    assert found.predictions.counts == expected.predictions.counts
    sample = read(world, SAMPLE)
    assert sample.columns == [*world.inputs, PREDICTION]
    assert sample.height == 100
    scores = prediction_values(world.package.info, world.package.predict(within)).round(5)
    assert set(sample[PREDICTION].round(5)) <= set(scores.round(5))


def test_the_evaluation_comes_with_the_version(world: World) -> None:
    world.serve(parcels(20, 50), NOW - HOUR)
    seen = world.observe()
    assert isinstance(seen.evaluation, Evaluation)
    assert seen.evaluation.model_digest == world.release.digest
    assert world.file(OBSERVATION)["evaluation"]["metrics"] == seen.evaluation.metrics


def test_a_log_without_rows_is_an_observation_too(world: World) -> None:
    seen = world.observe()
    assert seen.rows == 0
    assert not (world.path / "observation" / SAMPLE).exists()
    assert any("no server is running" in note for note in seen.notes)


def test_labels_are_joined_late_and_by_the_last_prediction(world: World) -> None:
    early, late = parcels(100, 60), parcels(100, 61)
    world.serve(early, NOW - 40 * HOUR)
    world.serve(late, NOW - 2 * HOUR)
    # The same parcels were asked about again, and weigh more now.
    again = early.head(10).with_columns(pl.col("weight") + 3)
    world.serve(again, NOW - HOUR)
    first = early.with_columns(lost=pl.when(pl.col("parcel") % 10 == 0).then(None).otherwise("lost"))
    world.labels(first, "1.parquet")
    world.labels(late.head(50).with_columns(lost=pl.lit("mislaid")), "2.parquet")
    where = world.labels(early, "3.parquet")
    labels = {"uri": where, "late": "2d"}
    seen = world.observe(labels=labels, slices=["depot", "colour"])
    assert seen.labels is not None
    assert (seen.labels.predicted, seen.labels.labelled, seen.labels.unknown) == (200, 100, 50)
    assert seen.labels.since == "2027-01-13T08:00:00+00:00"
    joined = read(world, LABELLED).sort("truth", maintain_order=True)
    assert joined.columns == ["outputs", "slice.depot", "truth"]
    expected = pl.concat([again, early.slice(10)])
    outputs = world.package.predict(expected)[:, 1]
    assert sorted(joined["outputs"].list.get(1)) == pytest.approx(sorted(outputs), abs=1e-6)
    assert joined["truth"].sum() == int((early["lost"] == "yes").sum())
    assert any("no slices by colour" in note for note in seen.notes)
    assert any("50 labels are none that the model knows" in note for note in seen.notes)
    assert world.observe(labels={"uri": where, "late": "6h"}).labels.predicted == 110


def test_rows_of_one_request_are_told_apart_by_their_place(world: World) -> None:
    rows = parcels(100, 70)
    world.serve(rows, NOW - HOUR, size=5)
    # A request carries its first row's key, and keys begin with a multiple of five.
    keys = rows.with_columns(pl.col("parcel") // 5 * 5)
    place = pl.Series("row", np.arange(100) % 5)
    where = world.labels(keys, row=place)
    seen = world.observe(labels={"uri": where})
    assert (seen.labels.predicted, seen.labels.labelled) == (0, 0)
    assert any("100 predictions share their request's key" in note for note in seen.notes)
    seen = world.observe(labels={"uri": where, "key": ["parcel", "row"]})
    assert (seen.labels.predicted, seen.labels.labelled) == (100, 100)
    joined = read(world, LABELLED)
    scores = world.package.predict(rows)[:, 1]
    assert joined["outputs"].list.get(1).to_numpy() == pytest.approx(scores, abs=1e-6)
    assert joined["truth"].to_list() == [int(value == "yes") for value in rows["lost"]]


def test_features_called_row_and_key_are_features(tmp_path: Path, world: World) -> None:
    inputs = [InputColumn(name=name, kind="category", nullable=False) for name in ("key", "row")]
    info = world.package.info.model_copy(update={"inputs": inputs})
    telemetry = Telemetry("parcels", log=PredictionLog(str(tmp_path / "log")), clock=lambda: NOW)
    served = SimpleNamespace(name=info.name, task=info.task, classes=info.classes, inputs=inputs, onnx=True)
    counter = telemetry.revision("v1", "1", served, ())
    asked = [{"key": "k", "row": name} for name in "ab"]
    counter.answered(0.001, np.array([[0.4, 0.6], [0.3, 0.7]]), asked, "the request")
    telemetry.close()
    known = describe_categories({"a": 1})
    watched = Watched(info, Statistics(rows=1, label=known, columns={"key": known, "row": known}), None)
    span = Span(str(tmp_path / "log"), "v1", NOW, NOW + 1, NOW)
    predicted = gather_log(span, watched, 10, ["key", "row"], []).predicted
    assert predicted is not None
    frame = predicted.frame()
    assert frame is not None
    assert sorted(frame.select(predicted.names).rows()) == [("k", "a"), ("k", "b")]


def test_labels_that_have_not_come_are_no_fault(world: World) -> None:
    world.serve(parcels(20, 50), NOW - HOUR)
    (world.path / "labels").mkdir()
    seen = world.observe(labels={"uri": str(world.path / "labels")})
    assert (seen.labels.predicted, seen.labels.labelled) == (20, 0)
    assert any("no Parquet file at" in note for note in seen.notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": {"uri": "labels", "key": ["parcel", "city"]}}, r"labels.key: parcel, city: a request has one key"),
        (
            {"labels": {"uri": "labels", "label": "gone"}},
            r"has no column 'gone' \(monitor.labels\); it has parcel, lost",
        ),
        ({"labels": {"uri": "labels", "key": ["parcel", "depot"]}}, r"has no column 'depot'"),
        ({"until": "yesterday"}, r"until: expected an ISO date or time, as .*, found 'yesterday'"),
    ],
)
def test_what_cannot_be_asked_for_is_told(world: World, settings: dict[str, Any], said: str) -> None:
    rows = parcels(20, 50)
    world.serve(rows, NOW - HOUR)
    if "labels" in settings:
        settings = {"labels": settings["labels"] | {"uri": world.labels(rows)}}
    with pytest.raises(InputError, match=said):
        world.observe(**settings)
    assert not (world.path / "observation").exists()


def test_damage_is_told_with_its_place(world: World) -> None:
    rows = parcels(20, 50)
    world.serve(rows, NOW - HOUR)
    where = world.labels(rows)
    (Path(where) / "labels.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="labels"):
        world.observe(labels={"uri": where})
    (part,) = Path(world.log).glob("*/*.parquet")
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(InputError, match=part.name):
        world.observe()


def test_another_package_than_the_release_names_is_refused(world: World) -> None:
    world.release.model_copy(update={"digest": "sha256:" + "0" * 64}).write(world.path / "release.json")
    with pytest.raises(DigestMismatchError):
        world.observe()


def test_predictions_beyond_what_is_kept_are_sampled_by_key() -> None:
    def gathered(parts: int) -> Predicted:
        predicted = Predicted(["id"], most=500)
        for start in range(0, 6000, 6000 // parts):
            number = pl.Series(np.arange(start, start + 6000 // parts))
            outputs = pl.Series([[float(value)] for value in number])
            predicted.add(number, [number % 3000], outputs, [])
        return predicted

    whole, pieces = gathered(1), gathered(20)
    found, again = whole.frame(), pieces.frame()
    assert found is not None
    assert again is not None
    assert whole.is_sample
    assert pieces.is_sample
    assert found.height <= 500
    # All of a key's predictions are there or none, so the one that counts is the last.
    assert set(found["outputs"].list.first()) <= set(map(float, range(3000, 6000)))
    assert again.height > 400
    assert set(again["outputs"].list.first()) <= set(map(float, range(3000, 6000)))
    assert abs(found["key.id"].cast(pl.Int64).mean() - 1500) < 150


def test_many_small_parts_take_no_more_memory_than_their_rows() -> None:
    def gathered(parts: int, rows: int) -> tuple[int, pl.DataFrame | None, pl.DataFrame | None]:
        predicted, sampler = Predicted(["id"]), Sampler(100_000)
        gc.collect()
        before = len(gc.get_objects())
        for start in range(0, parts * rows, rows):
            number = pl.Series("id", np.arange(start, start + rows))
            predicted.add(number, [number], pl.Series([[0.5]] * rows), [])
            sampler.add(pl.DataFrame([number]))
        gc.collect()
        return len(gc.get_objects()) - before, predicted.frame(), sampler.frame()

    held, found, sample = gathered(4000, 1)
    assert held < 4000
    _, expected, same = gathered(1, 4000)
    for frame, other in ((found, expected), (sample, same)):
        assert frame is not None
        assert other is not None
        assert frame.equals(other)


def test_a_sample_is_even_and_always_the_same() -> None:
    def drawn() -> pl.DataFrame | None:
        sampler = Sampler(1000)
        for start in range(0, 50_000, 2500):
            sampler.add(pl.DataFrame({"x": np.arange(start, start + 2500)}))
        return sampler.frame()

    found, again = drawn(), drawn()
    assert found is not None
    assert again is not None
    assert found["x"].to_list() == again["x"].to_list() == sorted(found["x"])
    assert found.height == 1000
    assert np.histogram(found["x"], bins=10, range=(0, 50_000))[0].min() > 60
    assert Sampler(5).frame() is None


def test_keys_and_classes_are_compared_as_text() -> None:
    floats = as_text(pl.Series([1.0, 2.5, None, float("nan"), 1e300]))
    assert floats.to_list()[:4] == ["1", "2.5", None, None]
    assert as_text(pl.Series([True, None, False])).to_list() == ["true", None, "false"]
    decimals = pl.Series([Decimal("7.00"), Decimal("0"), Decimal("100.50"), None])
    assert as_text(decimals).to_list() == ["7", "0", "100.5", None]
    assert as_text(pl.Series([Decimal(100)], dtype=pl.Decimal(38, 0))).to_list() == ["100"]
    moments = pl.Series(["2026-01-02T03:04:05"]).str.to_datetime()
    assert as_text(moments.dt.cast_time_unit("ns")).to_list() == as_text(moments.dt.cast_time_unit("ms")).to_list()


@pytest.mark.parametrize(
    ("task", "classes", "labels", "expected"),
    [
        ("binary", [False, True], [True, False, True, None], [1, 0, 1]),
        ("binary", [0, 1], [1.0, 0.0, 2.0, None], [1, 0]),
        ("binary", [0, 1], [True, False, True, None], [1, 0, 1]),
        ("binary", [False, True], [1, 0, 2, None], [1, 0]),
        ("binary", ["0", "1"], [Decimal("1.00"), Decimal("0.00"), Decimal("0.50"), None], [1, 0]),
        ("multiclass", ["a", "b", "c"], ["c", "a", "d", None], [2, 0]),
        ("regression", [], [1.5, float("inf"), 3.0, None], [1.5, 3.0]),
        ("regression", [], [1, 2, 3, None], [1.0, 2.0, 3.0]),
    ],
)
def test_labels_become_what_scoring_takes(
    tmp_path: Path, task: str, classes: list[Any], labels: list[Any], expected: list[Any]
) -> None:
    pl.DataFrame({"id": [1, 2, 3, 4], "lost": labels}).write_parquet(tmp_path / "labels.parquet")
    predicted = Predicted(["id"])
    values = pl.Series([[0.1, 0.9]] * 4)
    predicted.add(pl.Series([1, 2, 3, 4]), [pl.Series(["1", "2", "3", "4"])], values, [])
    frame = predicted.frame()
    assert frame is not None
    info = PackageInfo(
        name="parcels",
        task=task,
        label="lost",
        classes=classes,
        inputs=[],
        features=[],
        trainer="sklearn",
        onnx=True,
        onnx_note="",
        libraries={},
    )
    joined, unknown = join_labels(frame, ["id"], LabelsSection(uri=str(tmp_path)), DATA, info)
    assert joined["truth"].to_list() == expected
    assert unknown == 3 - len(expected)


def test_labels_that_are_no_numbers_are_told(tmp_path: Path, world: World) -> None:
    pl.DataFrame({"id": [1], "lost": ["much"]}).write_parquet(tmp_path / "labels.parquet")
    predicted = Predicted(["id"])
    predicted.add(pl.Series([1]), [pl.Series(["1"])], pl.Series([[0.5]]), [])
    frame = predicted.frame()
    assert frame is not None
    info = world.package.info.model_copy(update={"task": "regression", "classes": []})
    with pytest.raises(InputError, match=r"labels\.parquet: expected numbers in column 'lost' .*found String"):
        join_labels(frame, ["id"], LabelsSection(uri=str(tmp_path)), DATA, info)
