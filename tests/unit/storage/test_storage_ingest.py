"""Ingest from S3, MinIO and GCS, over the wire: every way of naming rows, and what a changed object does."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from shipway.dataset import batches
from shipway.errors import InputError
from shipway.ingest.fingerprint import fingerprint
from shipway.ingest.read import ingest
from shipway.spec import DataSection

Put = Callable[[str, bytes], None]


def parquet(first: int) -> bytes:
    sink = io.BytesIO()
    pl.DataFrame({"x": [first, first + 1], "kind": ["a", "b"]}).write_parquet(sink)
    return sink.getvalue()


def section(uri: str) -> DataSection:
    return DataSection(uri=uri, label="kind")


def rows(folder: Path) -> list[int]:
    return [value for frame in batches(folder) for value in frame["x"].to_list()]


def test_parquet_by_folder_and_glob(bucket: str, put: Put, tmp_path: Path) -> None:
    put(f"{bucket}/days/part-1.parquet", parquet(3))
    put(f"{bucket}/days/part-0.parquet", parquet(1))
    put(f"{bucket}/days/_SUCCESS", b"")
    for name in ("days", "days/", "days/*.parquet", "days/part-?.parquet"):
        info = ingest(section(f"{bucket}/{name}"), "", tmp_path / "dataset")
        assert info.rows == 4
        assert rows(tmp_path / "dataset") == [1, 2, 3, 4]
        assert [source.rpartition("/")[2] for source in info.sources] == ["part-0.parquet", "part-1.parquet"]


def test_one_csv_and_the_same_version_as_from_disk(bucket: str, put: Put, tmp_path: Path) -> None:
    content = b"x,kind\n1,a\n2,b\n"
    put(f"{bucket}/in/rows.csv", content)
    (tmp_path / "rows.csv").write_bytes(content)
    remote = ingest(section(f"{bucket}/in/rows.csv"), "", tmp_path / "remote")
    local = ingest(section("rows.csv"), "", tmp_path / "local")
    assert remote.version == local.version
    assert rows(tmp_path / "remote") == [1, 2]


def test_source_of_the_run_goes_before_the_spec_s(bucket: str, put: Put, tmp_path: Path) -> None:
    put(f"{bucket}/new.csv", b"x,kind\n7,a\n")
    ingest(section(f"{bucket}/old.csv"), f"{bucket}/new.csv", tmp_path / "dataset")
    assert rows(tmp_path / "dataset") == [7]


def test_fingerprint_follows_the_objects(bucket: str, put: Put) -> None:
    put(f"{bucket}/days/0.csv", b"x,kind\n1,a\n")
    first = fingerprint(section(f"{bucket}/days"), "")
    assert fingerprint(section(f"{bucket}/days"), "") == first
    put(f"{bucket}/days/0.csv", b"x,kind\n2,a\n")
    changed = fingerprint(section(f"{bucket}/days"), "")
    put(f"{bucket}/days/1.csv", b"x,kind\n2,a\n")
    assert len({first, changed, fingerprint(section(f"{bucket}/days"), "")}) == 3


def test_nothing_there_is_named(bucket: str, put: Put, tmp_path: Path) -> None:
    put(f"{bucket}/else.csv", b"x,kind\n1,a\n")
    for name in ("nothing.csv", "nothing/*.csv"):
        with pytest.raises(InputError, match=rf"{bucket}/nothing.*: no (such file|file matches)"):
            ingest(section(f"{bucket}/{name}"), "", tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()
