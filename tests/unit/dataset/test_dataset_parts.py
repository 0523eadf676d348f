"""Datasets on disk: what is written comes back; what is unfinished or damaged is refused."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipway.dataset import ContentHash, DatasetWriter, batches, read_info, scan
from shipway.errors import InputError

ROWS = pl.DataFrame({"größe": [1, 2, None, 4, 5], "s": ["a", None, 'q"', "ü", ""]})


def write(folder: Path, frame: pl.DataFrame, part_rows: int = 1000) -> None:
    with DatasetWriter(folder, ["here"], part_rows=part_rows) as writer:
        writer.write(frame)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 5), max_size=4), part_rows=st.integers(1, 6), rows=st.integers(1, 6))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], part_rows: int, rows: int) -> None:
    folder = tmp_path_factory.mktemp("rows")
    edges = [0, *sorted(cuts), 5]
    with DatasetWriter(folder, part_rows=part_rows) as writer:
        for start, end in pairwise(edges):
            writer.write(ROWS.slice(start, end - start))
    content = ContentHash()
    content.update(ROWS)
    info = read_info(folder)
    assert (info.version, info.rows) == (content.digest(), 5)
    assert info.columns == {"größe": "Int64", "s": "String"}
    assert len(info.parts) == -(-5 // part_rows)
    assert scan(folder).collect().equals(ROWS)
    pieces = list(batches(folder, rows=rows))
    assert all(piece.height <= rows for piece in pieces)
    assert pl.concat(pieces).equals(ROWS)
    assert pl.concat(batches(folder, columns=["s"])).equals(ROWS.select("s"))


def test_no_rows_keep_their_columns(tmp_path: Path) -> None:
    write(tmp_path, ROWS.clear())
    assert scan(tmp_path).collect().equals(ROWS.clear())
    assert read_info(tmp_path).rows == 0


def test_frames_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot follow"), DatasetWriter(tmp_path) as writer:
        writer.write(ROWS)
        writer.write(ROWS.cast({"größe": pl.Float64}))
    with pytest.raises(ValueError, match="no frame"), DatasetWriter(tmp_path):
        pass


def test_an_error_while_writing_leaves_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), DatasetWriter(tmp_path, part_rows=1) as writer:
        writer.write(ROWS)
        raise RuntimeError("stop")
    with pytest.raises(InputError, match=r"not a dataset"):
        scan(tmp_path)


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_killed_write_leaves_no_dataset(tmp_path: Path, finished_before: bool) -> None:
    if finished_before:
        write(tmp_path, ROWS)
    code = f"""
import polars as pl
from shipway.dataset import DatasetWriter
with DatasetWriter({str(tmp_path)!r}, part_rows=2) as writer:
    writer.write(pl.DataFrame({{"a": [1, 2, 3]}}))
    print("written", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert list(tmp_path.glob("part-*"))
    with pytest.raises(InputError, match=r"not a dataset"):
        read_info(tmp_path)
    write(tmp_path, ROWS)
    assert scan(tmp_path).collect().equals(ROWS)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"rows": 1}', b"\xff\xfe", b'{"version": 1, "rows": "x"}'])
def test_a_damaged_manifest(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, ROWS)
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dataset\.json: damaged manifest"):
        read_info(tmp_path)


def test_a_missing_part(tmp_path: Path) -> None:
    write(tmp_path, ROWS, part_rows=2)
    (tmp_path / "part-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"part-00001\.parquet of 3 parts missing"):
        scan(tmp_path)
    with pytest.raises(InputError, match="missing"):
        list(batches(tmp_path))
