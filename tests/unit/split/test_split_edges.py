"""Splits at the edges: null keys, absurd windows, floats, the component itself."""

import datetime as dt
import json
from pathlib import Path

import polars as pl
import pytest
from kfp.dsl import Dataset

from shipway.dataset import DatasetWriter, read_info
from shipway.errors import InputError
from shipway.lineage.steps import read_record
from shipway.spec import ColumnSplit, DataSection, TimeSplit, dump_section
from shipway.split.component import split
from shipway.split.split import PARTS, split_dataset

SEASONS = ColumnSplit(by="column", column="season", train=[2011], validation=[2012], test=[2013])


def rows(folder: Path, frame: pl.DataFrame) -> Path:
    with DatasetWriter(folder / "rows", part_rows=2) as writer:
        writer.write(frame)
    return folder / "rows"


def folders(folder: Path) -> dict[str, str | Path]:
    return {part: folder / part for part in PARTS}


def test_null_keys_are_in_no_two_parts(tmp_path: Path) -> None:
    frame = pl.DataFrame({"season": [2011, 2012, 2013, 2013], "k": [1, None, None, 2], "j": ["a", "a", "a", None]})
    data = DataSection(uri="x", label="y", key=["k", "j"])
    result = split_dataset(rows(tmp_path, frame), folders(tmp_path), SEASONS, data)
    assert result.rows == {"train": 1, "validation": 1, "test": 2}


def test_only_null_keys(tmp_path: Path) -> None:
    frame = pl.DataFrame({"season": [2011, 2012, 2013], "k": [None, None, None]}, schema_overrides={"k": pl.Int64})
    data = DataSection(uri="x", label="y", key="k")
    assert split_dataset(rows(tmp_path, frame), folders(tmp_path), SEASONS, data).left_out == 0


def test_leaks_are_counted_and_sampled(tmp_path: Path) -> None:
    frame = pl.DataFrame({"season": [2011] * 20 + [2012] * 20 + [2013], "k": [*range(20), *range(10, 30), 99]})
    data = DataSection(uri="x", label="y", key="k")
    with pytest.raises(InputError, match=r"10 keys \(k\) are in more than one part, as k=1") as refused:
        split_dataset(rows(tmp_path, frame), folders(tmp_path), SEASONS, data)
    assert str(refused.value).count("k=") == 5
    with pytest.raises(InputError, match="not a dataset"):
        read_info(tmp_path / "train")


def test_whole_floats_are_the_specs_integers(tmp_path: Path) -> None:
    frame = pl.DataFrame({"season": [2011.0, 2012.0, 2013.0, None, 2013.5]})
    result = split_dataset(rows(tmp_path, frame), folders(tmp_path), SEASONS, DataSection(uri="x", label="y"))
    assert result.rows == {"train": 1, "validation": 1, "test": 1}
    assert result.left_out == 2


@pytest.mark.parametrize("period", ["3000y", "40000mo", "900000d", "9999999999d"])
def test_windows_before_all_time(tmp_path: Path, period: str) -> None:
    frame = pl.DataFrame({"t": [dt.datetime(2013, 1, 1)]})
    section = TimeSplit(by="time", column="t", test="1d", validation=period)
    with pytest.raises(InputError, match="begin before the year 1"):
        split_dataset(rows(tmp_path, frame), folders(tmp_path), section, DataSection(uri="x", label="y"))


def test_the_component(tmp_path: Path) -> None:
    dataset = rows(tmp_path, pl.DataFrame({"season": [2011, 2012, 2013, 2014], "y": [0, 1, 0, 1]}))
    outputs = {part: Dataset(name=part, uri=str(tmp_path / "out" / part)) for part in PARTS}
    split.python_func(
        dataset=Dataset(name="rows", uri=str(dataset)),
        **outputs,
        split=dump_section(SEASONS),
        data=dump_section(DataSection(uri="x", label="y")),
    )
    assert outputs["test"].metadata["rows"] == 1
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record.facts["rows"] == {"train": 1, "validation": 1, "test": 1}
    assert record.facts["left_out"] == 1
    assert json.loads((tmp_path / "out" / "test" / "dataset.json").read_text())["rows"] == 1
