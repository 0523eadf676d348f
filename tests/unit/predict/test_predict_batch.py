"""A batch from rows to published predictions: values, schema, shares, parts found again, publication."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from predict_batches import Batch, make_package, rows

from shipway.dataset import read_info, scan
from shipway.dataset.quarantine import REASONS, ROW
from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import read_document
from shipway.model.profile import Profile
from shipway.predict.tally import OTHERS, Tally

Make = Callable[..., Batch]


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of the files in a folder, without when the batch was begun."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    if "batch.json" in found:
        found["batch.json"] = re.sub(rb'"began": "[^"]*"', b"", found["batch.json"])
    return found


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_predictions_are_the_packages_in_the_stated_schema(make_batch: Make, task: str) -> None:
    batch = make_batch(task, columns=["carrier", "day"], slices=["carrier"])
    frame = rows(1234)
    found = batch.score(frame)
    expected = np.asarray(batch.package.predict(frame), dtype=np.float64)
    assert found["row"].to_list() == list(range(1234))
    assert found.select("id", "carrier", "day").equals(frame.select("id", "carrier", "day"))
    assert set(found["version"]) == {"3"}
    assert set(found["run_id"]) == {"run-1"}
    schema = pq.read_schema(batch.folder / "predictions" / "part-00001.parquet")
    outputs = [pa.field("outputs", pa.list_(pa.field("element", pa.float64())), nullable=False)]
    assert schema.remove_metadata().equals(
        pa.schema(
            [
                pa.field("row", pa.int64(), nullable=False),
                pa.field("id", pa.int64()),
                pa.field("carrier", pa.string()),
                pa.field("day", pa.date32()),
                pa.field("prediction", pa.float64(), nullable=False),
                pa.field("label", pa.string()),
                *(outputs if task == "multiclass" else []),
                pa.field("version", pa.string(), nullable=False),
                pa.field("run_id", pa.string(), nullable=False),
            ]
        )
    )
    if task == "binary":
        assert np.array_equal(found["prediction"].to_numpy(), expected[:, 1])
        assert found["label"].to_list() == ["true" if value >= 0.5 else "false" for value in expected[:, 1]]
    elif task == "multiclass":
        assert np.array_equal(np.array(found["outputs"].to_list()), expected)
        assert np.array_equal(found["prediction"].to_numpy(), expected.max(axis=1))
        assert found["label"].to_list() == [batch.info().classes[at] for at in expected.argmax(axis=1)]
    else:
        assert np.array_equal(found["prediction"].to_numpy(), expected[:, 0])
        assert found["label"].null_count() == 1234


def test_a_batch_is_described_profiled_and_told_of(make_batch: Make) -> None:
    batch = make_batch(slices=["carrier", "night"], max_quarantine=0.01)
    frame = rows(1200).with_columns(
        distance=pl.when(pl.col("id") == 1700).then(99.0).otherwise("distance"),
        carrier=pl.when(pl.col("id").is_in([1003, 1700])).then(pl.lit("<b>long")).otherwise("carrier"),
    )
    found = batch.score(frame)
    assert found.height == 1198
    assert not found["id"].is_in([1003, 1700]).any()
    assert found["row"].to_list() == [row for row in range(1200) if row not in (3, 700)]
    info = batch.info()
    assert (info.rows, info.quarantined, info.predicted) == (1200, 2, 1198)
    assert info.parts == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    kept = frame.filter(~pl.col("id").is_in([1003, 1700]))
    for entry in info.slices:
        same = found.filter(kept[entry.column].cast(pl.String).eq_missing(pl.lit(entry.value, dtype=pl.String)))
        assert entry.rows == same.height
        assert entry.total == pytest.approx(same["prediction"].sum())
    assert sum(entry.rows for entry in info.slices if entry.column == "night") == 1198
    aside = pl.read_parquet(batch.folder / "predictions" / "quarantine-00000.parquet")
    assert aside.select(ROW, REASONS).rows() == [
        (3, "carrier: str_length(max_value=4)"),
        (700, "distance: in_range(-10.0, 10.0); carrier: str_length(max_value=4)"),
    ]
    profile = read_document(Profile, batch.folder / "profile.json")
    assert profile == read_document(Profile, batch.folder / "predictions" / "profile.json")
    assert profile.rows == 1198
    assert profile.predictions is not None
    assert sum(profile.predictions.model_dump()["counts"]) == 1198
    manifest = read_info(batch.folder / "predictions")
    assert manifest.rows == scan(batch.folder / "predictions").select(pl.len()).collect().item() == 1198
    assert list(manifest.columns) == ["row", "id", "prediction", "label", "version", "run_id"]
    page = (batch.folder / "report.html").read_text()
    for words in ("1,198 of 1,200 rows scored by flights version 3", "distance: in_range", "carrier: str_length"):
        assert words in page
    assert "&lt;b&gt;long" in page
    assert "<b>" not in page
    assert "validation" in page


def test_shares_are_the_whole_in_the_same_bytes(make_batch: Make, tmp_path: Path) -> None:
    whole, shared = make_batch(name="whole", slices=["carrier"]), make_batch(name="shared", slices=["carrier"])
    frame = rows(2600)
    whole.score(frame)
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    shared.screen(frame)
    partitions = [f"{index}/8" for index in range(8)]
    for partition in reversed(partitions):
        shared.predict(partition)
    shared.gather(*reversed(partitions))
    one, other = contents(whole.folder / "predictions"), contents(shared.folder / "predictions")
    assert {name: one[name] for name in one if name.startswith("part-")} == {
        name: other[name] for name in other if name.startswith("part-")
    }
    assert one["dataset.json"] == other["dataset.json"]
    assert shared.info().predicted == 2600


def test_shares_that_do_not_make_a_batch_are_refused(make_batch: Make) -> None:
    batch = make_batch()
    batch.screen(rows(1200))
    for partition in ("0/2", "1/2"):
        batch.predict(partition)
    with pytest.raises(ShipwayError, match="hold 700 predictions in 2 parts, expected 1,200"):
        batch.gather("0/2")
    with pytest.raises(ShipwayError, match="comes twice"):
        batch.gather("0/2", "0/2")
    batch.version = "4"
    batch.predict("1/2")
    with pytest.raises(ShipwayError, match=r"version: '3' and '4'"):
        batch.gather("0/2", "1/2")
    with pytest.raises(InputError, match="INDEX/COUNT"):
        batch.predict("2/2")


def test_steps_of_one_run_that_share_no_folder_make_a_batch(make_batch: Make, tmp_path: Path) -> None:
    """As pods of a cluster without a volume: each notes a beginning of its own."""
    batch = make_batch()
    batch.screen(rows(1200))
    batch.predict("0/2")
    shutil.rmtree(tmp_path / "state")
    batch.predict("1/2")
    described = batch.folder / "share-1of2" / "batch.json"
    earlier = json.loads(described.read_text()) | {"began": "2020-01-01T00:00:00+00:00"}
    described.write_text(json.dumps(earlier))
    assert batch.gather("0/2", "1/2").info.began == "2020-01-01T00:00:00+00:00"
    shutil.rmtree(tmp_path / "state")
    batch.predict("1/2", run_id="run-2")
    with pytest.raises(ShipwayError, match=r"run_id: 'run-1' and 'run-2'"):
        batch.gather("0/2", "1/2")


def test_a_slice_of_many_values_is_counted_to_a_bound() -> None:
    tally = Tally(["who"])
    for first in (0, 1000):
        who = [f"p{number}" for number in range(first, first + 1500)]
        tally.update(pl.DataFrame({"who": who}), np.ones(1500))
    found = {entry.value: entry.rows for entry in tally.slices()}
    assert (len(found), sum(found.values()), found[OTHERS]) == (1001, 3000, 2000)


def test_finished_parts_are_found_again_until_the_batch_is_gathered(make_batch: Make, tmp_path: Path) -> None:
    batch = make_batch()
    batch.screen(rows(1200))
    first = batch.predict(run_id="run-1")
    before = contents(batch.folder / "share-0of1")
    kept = tmp_path / "state" / "batches" / first.info.batch
    (kept / "part-00000.parquet").write_bytes(b"half a file")
    (kept / "part-00001.json").write_text('{"half":')
    again = batch.predict(run_id="run-2")
    assert (first.reused, again.reused) == (0, 1)
    assert contents(batch.folder / "share-0of1") == before
    assert set(pl.read_parquet(batch.folder / "share-0of1" / "*.parquet")["run_id"]) == {"run-1"}
    batch.gather()
    assert not kept.exists()
    assert batch.predict(run_id="run-3").info.run_id == "run-3"


def test_finished_parts_of_a_run_that_is_forgotten_are_not_taken(make_batch: Make, tmp_path: Path) -> None:
    """As after a kill while the folder of a gathered batch was removed."""
    batch = make_batch()
    batch.screen(rows(1200))
    kept = tmp_path / "state" / "batches" / batch.predict(run_id="run-1").info.batch
    (kept / "begun.json").unlink()
    (kept / "part-00002.parquet").unlink()
    again = batch.predict(run_id="run-2")
    assert (again.info.run_id, again.reused) == ("run-2", 0)
    assert set(pl.read_parquet(batch.folder / "share-0of1" / "*.parquet")["run_id"]) == {"run-2"}


def test_finished_parts_of_other_rows_are_not_taken(make_batch: Make) -> None:
    """The data version does not depend on the order of the rows; the predictions of a part do."""
    batch = make_batch()
    frame = rows(1200)
    batch.screen(frame)
    one = batch.predict()
    batch.screen(frame.reverse())
    other = batch.predict()
    assert one.info.batch == other.info.batch
    assert other.reused == 0
    batch.gather()
    assert batch.predictions()["id"].to_list() == frame.reverse()["id"].to_list()


def test_finished_parts_survive_a_container(make_batch: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPWAY_CHECKPOINTS", f"file://{tmp_path}/store")
    batch = make_batch()
    batch.screen(rows(1200))
    batch.predict(run_id="run-1")
    before = contents(batch.folder / "share-0of1")
    shutil.rmtree(tmp_path / "state")
    again = batch.predict(run_id="run-2")
    assert again.reused == 3
    assert contents(batch.folder / "share-0of1") == before
    batch.gather()
    assert not (tmp_path / "store" / "batches" / again.info.batch).exists()


@pytest.mark.parametrize("remote", [False, True])
def test_a_batch_is_published_once(make_batch: Make, tmp_path: Path, remote: bool) -> None:
    place = f"memory://published-{tmp_path.name}" if remote else str(tmp_path / "out")
    batch = make_batch(output=place)
    frame = rows(700)
    batch.score(frame, run_id="run-1")
    done = batch.gather()
    assert done.place == f"{place}/{done.info.batch}"

    def stored() -> dict[str, bytes]:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(done.place)
        return {name.rpartition("/")[2]: filesystem.cat_file(name) for name in filesystem.find(path)}

    first = stored()
    assert set(first) == {"batch.json", "dataset.json", "profile.json", "part-00000.parquet", "part-00001.parquet"}
    batch.score(frame, run_id="run-2")
    assert stored() == first
    assert contents(batch.folder / "predictions")["part-00000.parquet"] == first["part-00000.parquet"]
    assert batch.info().run_id == "run-1"


def test_something_else_at_the_place_is_told_of(make_batch: Make, tmp_path: Path) -> None:
    batch = make_batch(output=str(tmp_path / "out"))
    batch.screen(rows(100))
    name = batch.predict().info.batch
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "batch.json").write_text(json.dumps({"batch": name}))
    with pytest.raises(InputError, match=r"batch.json: not of Shipway's making: model: Field required"):
        batch.predict()


def test_settings_that_do_not_fit_the_rows(make_batch: Make) -> None:
    batch = make_batch(columns=["gone"])
    batch.screen(rows(100))
    for setting, message in (
        ({"columns": ["gone"]}, "no column 'gone', which data.key or inference.columns names; they have id, day"),
        ({"slices": ["gone"]}, "inference.slices: the rows have no column 'gone'"),
    ):
        batch.inference = setting
        with pytest.raises(InputError, match=message):
            batch.predict()
    batch.inference = {"columns": ["version"]}
    batch.screen(rows(100).with_columns(version=pl.lit("x")))
    with pytest.raises(InputError, match="names 'version', which the predictions have a column of their own for"):
        batch.predict()


def test_a_model_that_gives_no_number_is_told_of(make_batch: Make, project: Path, tmp_path: Path) -> None:
    batch = make_batch()
    batch.package = make_package(tmp_path / "steep", project, "regression", scale=1e30)
    batch.screen(rows(600).with_columns(seats=pl.when(pl.col("id") == 1507).then(2**60).otherwise("seats"))).require()
    with pytest.raises(ShipwayError, match=r"infinite prediction for 1 of 100 rows, as row 507 of the batch"):
        batch.predict()


def test_no_rows_are_a_batch_too(make_batch: Make) -> None:
    batch = make_batch(slices=["carrier"])
    assert batch.score(rows(10).head(0)).height == 0
    assert batch.info().predicted == 0
    assert "0 of 0 rows scored" in (batch.folder / "report.html").read_text()


def test_numbers_given_as_text_are_read(make_batch: Make) -> None:
    batch = make_batch(max_quarantine=0.01)
    frame = rows(1000)
    text = frame.with_columns(
        pl.col("distance").cast(pl.String).alias("distance"), pl.col("night").cast(pl.String).str.to_uppercase()
    )
    text = text.with_columns(distance=pl.when(pl.col("id") == 1005).then(pl.lit("oops")).otherwise("distance"))
    found = batch.score(text)
    expected = frame.filter(pl.col("id") != 1005)
    assert np.allclose(found["prediction"].to_numpy(), batch.package.predict(expected)[:, 1])
