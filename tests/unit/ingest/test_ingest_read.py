"""Ingest: every kind of source, and every way of breaking one."""

import datetime as dt
import gzip
from pathlib import Path

import fsspec
import pandas as pd
import polars as pl
import pytest

from shipway.dataset import ContentHash, DatasetInfo, read_info, scan
from shipway.errors import InputError, UserCodeError
from shipway.ingest.read import ingest
from shipway.spec import DataSection


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setenv("SHIPWAY_PROJECT", str(folder))
    return folder


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [1, 2, 3],
            "größe": [0.5, None, 2.0],
            "name": ["a,b", 'say "hi"', None],
            "ok": [True, False, None],
            "day": [dt.date(2013, 1, 1), dt.date(2013, 2, 1), None],
            "at": [dt.datetime(2013, 1, 1, 5), dt.datetime(2013, 1, 1, 6, 30), None],
            "y": [0, 1, 0],
        }
    )


def read(uri: str | Path, out: Path, label: str = "y", source: str = "") -> DatasetInfo:
    return ingest(DataSection(uri=str(uri), label=label), source, out)


def load(code: str, project: Path, out: Path, name: str = "loader.py") -> DatasetInfo:
    (project / name).write_text(code)
    return ingest(DataSection(loader=f"{name}:load", label="y"), "", out)


def test_same_version_from_every_kind_of_source(project: Path, tmp_path: Path) -> None:
    frame().write_parquet(project / "a.parquet")
    frame().write_csv(project / "a.csv")
    (project / "a.csv.gz").write_bytes(gzip.compress((project / "a.csv").read_bytes()))
    (project / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (project / "a.csv").read_bytes())
    (project / "crlf.csv").write_bytes((project / "a.csv").read_bytes().replace(b"\n", b"\r\n"))
    with fsspec.open("memory://bucket/a.parquet", "wb") as file:
        file.write((project / "a.parquet").read_bytes())
    with fsspec.open("memory://bucket/a.csv", "wb") as file:
        file.write((project / "a.csv").read_bytes())
    uris = ["a.parquet", "a.csv", "a.csv.gz", "bom.csv", "crlf.csv", str(project / "a.csv"), f"file://{project}/a.csv"]
    uris += ["memory://bucket/a.parquet", "memory://bucket/a.csv", "memory://bucket/*.parquet"]
    versions = {uri: read(uri, tmp_path / f"out{index}").version for index, uri in enumerate(uris)}
    code = "import polars as pl\ndef load(): return pl.read_parquet(__file__[:-9] + 'a.parquet')"
    versions["loader"] = load(code, project, tmp_path / "loaded").version
    content = ContentHash()
    content.update(frame())
    assert set(versions.values()) == {content.digest()}, versions
    assert scan(tmp_path / "out1").collect().equals(frame())
    assert read_info(tmp_path / "out1").sources == ["a.csv"]


def test_globs_are_sorted_and_widen(project: Path, tmp_path: Path) -> None:
    (project / "b.csv").write_text("y,x,d\n1,1.5,2013-01-01 02:00:00\n")
    (project / "a.csv").write_text("y,x,d\n0,7,2013-01-01\n")
    pl.DataFrame({"y": [2], "x": [None], "d": [None]}).write_parquet(project / "c.parquet")
    info = read("*.*", tmp_path / "out")
    rows = scan(tmp_path / "out").collect()
    assert info.sources == ["a.csv", "b.csv", "c.parquet"]
    assert info.columns == {"y": "Int64", "x": "Float64", "d": "Datetime(time_unit='us', time_zone=None)"}
    assert rows["x"].to_list() == [7.0, 1.5, None]
    assert rows["d"].to_list() == [dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 1, 2), None]
    (project / "d.csv").write_text("y,x,d\n3,oops,2013-01-01\n")
    assert read("*.*", tmp_path / "text").columns["x"] == "String"
    assert scan(tmp_path / "text").collect()["x"].to_list() == ["7", "1.5", None, "oops"]


def test_a_folder_stands_for_its_files(project: Path, tmp_path: Path) -> None:
    (project / "rows").mkdir()
    frame().head(1).write_parquet(project / "rows" / "1.parquet")
    frame().tail(2).write_parquet(project / "rows" / "2.parquet")
    (project / "rows" / "notes.txt").write_text("no rows here")
    assert read("rows", tmp_path / "out").rows == 3


def test_files_with_other_columns_are_refused(project: Path, tmp_path: Path) -> None:
    (project / "a.csv").write_text("y,x\n0,7\n")
    (project / "b.csv").write_text("y,z\n0,7\n")
    with pytest.raises(InputError, match=r"b\.csv: columns differ from those of .*a\.csv: missing 'x'; extra 'z'"):
        read("*.csv", tmp_path / "out")


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["1", "2", ""], pl.Int64, [1, 2, None]),
        (["1", "2.5", "NaN"], pl.Float64, [1.0, 2.5, None]),
        (["1", "NA", " 3"], pl.Int64, [1, None, 3]),
        (["1", "2", "x"], pl.String, ["1", "2", "x"]),
        (["007", "1", "2"], pl.String, ["007", "1", "2"]),
        (["12345678901234567890", "1", "2"], pl.String, ["12345678901234567890", "1", "2"]),
        (["true", "False", "TRUE"], pl.Boolean, [True, False, True]),
        (["2013-01-01", "NA", "2013-12-31"], pl.Date, [dt.date(2013, 1, 1), None, dt.date(2013, 12, 31)]),
        (["2013-02-30", "2013-01-01", ""], pl.String, ["2013-02-30", "2013-01-01", None]),
        (["NA", "x", ""], pl.String, ["NA", "x", None]),
        (["", "", ""], pl.String, [None, None, None]),
        (['""', "x", ""], pl.String, ["", "x", None]),
        (['"1\n2"', "x", '"q""q"'], pl.String, ["1\n2", "x", 'q"q']),
        (
            ["2013-01-01T05:00:00Z", "2013-01-01 05:00", "2013-01-01T05:00:00.5+02:00"],
            pl.Datetime("us"),
            [dt.datetime(2013, 1, 1, 5), dt.datetime(2013, 1, 1, 5), dt.datetime(2013, 1, 1, 3, 0, 0, 500_000)],
        ),
    ],
)
def test_csv_dtypes(project: Path, tmp_path: Path, cells: list[str], dtype: pl.DataType, values: list[object]) -> None:
    (project / "a.csv").write_text("y,x\n" + "".join(f"0,{cell}\n" for cell in cells))
    read("a.csv", tmp_path / "out")
    column = scan(tmp_path / "out").collect()["x"]
    assert column.dtype == dtype
    assert column.to_list() == values


def test_a_broken_last_cell_counts(project: Path, tmp_path: Path) -> None:
    rows = 200_000
    (project / "a.csv").write_text("y,x\n" + "1,2\n" * rows + "1,broken\n")
    info = read("a.csv", tmp_path / "out")
    assert info.columns == {"y": "Int64", "x": "String"}
    assert info.rows == rows + 1


def test_one_column_keeps_its_empty_lines(project: Path, tmp_path: Path) -> None:
    (project / "a.csv").write_text("y\n1\n\n2\n")
    assert read("a.csv", tmp_path / "out").rows == 3


def test_header_only(project: Path, tmp_path: Path) -> None:
    (project / "a.csv").write_text("y,x\n")
    info = read("a.csv", tmp_path / "out")
    assert (info.rows, list(info.columns)) == (0, ["y", "x"])
    assert scan(tmp_path / "out").collect().height == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv: the file is empty"),
        (b"\n\n", r"a\.csv: the file is empty"),
        (b"y,x\n1,2\n1,2,3\n", r"a\.csv: row 3 \(the header is row 1\): expected 2 cells, found 3"),
        (b"y,x\n1,2\n1\n", r"a\.csv: row 3 \(the header is row 1\): expected 2 cells, found 1"),
        (b"y,x,x\n1,2,3\n", r"a\.csv: column names come twice in the header: 'x'"),
        (b"y,x\n1,\xff\xfe\n", r"a\.csv: not UTF-8"),
    ],
)
def test_broken_csv(project: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (project / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read("a.csv", tmp_path / "out")


def test_ragged_row_far_down_names_its_row(project: Path, tmp_path: Path) -> None:
    (project / "a.csv").write_text("y,x\n" + "1,abcdefgh\n" * 2_000_000 + "1\n")
    with pytest.raises(InputError, match=r"row 2000002 \(the header is row 1\): expected 2 cells, found 1"):
        read("a.csv", tmp_path / "out")


def test_bad_utf8_far_down(project: Path, tmp_path: Path) -> None:
    (project / "a.csv").write_bytes(b"y,x\n" + b"1,abcdefgh\n" * 200_000 + b"1,\xff\xff\n")
    with pytest.raises(InputError, match=r"a\.csv: .*UTF8"):
        read("a.csv", tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1, -200])
def test_truncated_parquet(project: Path, tmp_path: Path, cut: int) -> None:
    frame().write_parquet(project / "whole.parquet")
    (project / "a.parquet").write_bytes((project / "whole.parquet").read_bytes()[:cut])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        read("a.parquet", tmp_path / "out")


def test_damaged_pages(project: Path, tmp_path: Path) -> None:
    pl.DataFrame({"y": list(range(50_000))}).write_parquet(project / "a.parquet", compression="zstd")
    content = bytearray((project / "a.parquet").read_bytes())
    content[40:4000] = b"\x00" * 3960
    (project / "a.parquet").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
        read("a.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("no.csv", "no.csv: no such file"),
        ("no/*.csv", "no file matches"),
        ("nonsense://x/a.csv", "nonsense://x/a.csv: .*[Pp]rotocol"),
        ("dropbox://x/a.csv", "dropbox://x/a.csv: this kind of URI needs another package"),
        ("memory://nowhere/a.csv", "no such file"),
        ("a.xlsx", "unknown ending; expected one of .parquet"),
    ],
)
def test_unreadable_sources(project: Path, tmp_path: Path, uri: str, message: str) -> None:
    (project / "a.xlsx").write_text("")
    with pytest.raises(InputError, match=message):
        read(uri, tmp_path / "out")


def test_source_replaces_the_loader(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "other.parquet")
    data = DataSection(loader="no.py:load", label="y")
    assert ingest(data, str(tmp_path / "other.parquet"), tmp_path / "out").rows == 3


def test_format_overrides_the_ending(project: Path, tmp_path: Path) -> None:
    (project / "a.txt").write_text("y\n1\n")
    info = ingest(DataSection(uri="a.txt", label="y", format="csv"), "", tmp_path / "out")
    assert info.rows == 1


def test_parquet_dtypes_come_down_to_a_few(project: Path, tmp_path: Path) -> None:
    zoned = pl.Series([dt.datetime(2013, 1, 1, 12)]).dt.replace_time_zone("America/New_York").dt.cast_time_unit("ns")
    pl.DataFrame(
        {
            "y": pl.Series([1], dtype=pl.UInt8),
            "big": pl.Series([2**63], dtype=pl.UInt64),
            "fits": pl.Series([5], dtype=pl.UInt64),
            "cat": pl.Series(["a"], dtype=pl.Categorical),
            "enum": pl.Series(["a"], dtype=pl.Enum(["a", "b"])),
            "dec": pl.Series(["1.25"]).cast(pl.Decimal(10, 2)),
            "zoned": zoned,
            "nan": [float("nan")],
            "span": [dt.timedelta(seconds=90)],
            "clock": [dt.time(5, 30)],
            "none": [None],
        }
    ).write_parquet(project / "a.parquet")
    read("a.parquet", tmp_path / "out")
    rows = scan(tmp_path / "out").collect()
    assert rows.row(0) == (1, 2**63, 5, "a", "a", 1.25, dt.datetime(2013, 1, 1, 17), None, 90.0, "05:30:00", None)
    assert [str(dtype) for dtype in rows.dtypes[:6]] == ["Int64", "UInt64", "Int64", "String", "String", "Float64"]
    assert rows.schema["zoned"] == pl.Datetime("us")


def test_nested_columns_are_refused(project: Path, tmp_path: Path) -> None:
    pl.DataFrame({"y": [1], "tags": [["a"]]}).write_parquet(project / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: column 'tags': a dataset cannot hold List"):
        read("a.parquet", tmp_path / "out")


def test_loader_kinds(project: Path, tmp_path: Path) -> None:
    codes = {
        "pandas": "import pandas as pd\ndef load(): return pd.DataFrame({'y': [1, 2], 'x': [0.5, float('nan')]})",
        "lazy": "import polars as pl\ndef load(): return pl.LazyFrame({'y': [1, 2], 'x': [0.5, None]})",
        "list": (
            "import polars as pl\n"
            "def load(): return [pl.DataFrame({'y': [i], 'x': [v]}) for i, v in ((1, .5), (2, None))]"
        ),
        "mixed": (
            "import polars as pl\ndef load():\n"
            " yield pl.LazyFrame({'y': [1], 'x': [.5]})\n yield pl.DataFrame({'y': [2], 'x': [None]})"
        ),
    }
    infos = {kind: load(code, project, tmp_path / kind, f"by_{kind}.py") for kind, code in codes.items()}
    assert len({info.version for info in infos.values()}) == 1, infos
    assert infos["mixed"].columns == {"y": "Int64", "x": "Float64"}
    assert infos["list"].sources == ["by_list.py:load"]


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("def load(): return 3", InputError, "expected a Polars or pandas frame, or several; found int"),
        ("def load(): return [3]", InputError, "expected Polars or pandas frames, found int"),
        ("def load(): return []", InputError, "it gave no frame"),
        ("load = 3", InputError, "expected a function, found int"),
        ("def other(): pass", InputError, "has no 'load'"),
        ("def load(): return 1 / 0", UserCodeError, r"ZeroDivisionError: division by zero \(at .*:1 in load\)"),
        ("def load():\n yield 1 / 0", UserCodeError, r"ZeroDivisionError: division by zero \(at .*:2 in load\)"),
        ("import polars as pl\ndef load(): return pl.LazyFrame({'a': [1]}).select('b')", UserCodeError, "'?b'?"),
        ("import pandas as pd\ndef load(): return pd.DataFrame({0: [1]})", InputError, "column names must be text"),
        ("import pandas as pd\ndef load(): return pd.DataFrame({'y': [1, 'a']})", InputError, "mixes types"),
        ("import polars as pl\ndef load(): return pl.DataFrame({'y': [[1]]})", InputError, "cannot hold List"),
    ],
)
def test_broken_loaders(
    project: Path, tmp_path: Path, code: str, error: type[Exception], message: str, request: pytest.FixtureRequest
) -> None:
    name = f"broken_{abs(hash(request.node.name))}.py"
    with pytest.raises(error, match=message):
        load(code, project, tmp_path / "out", name)


def test_pandas_dates_and_nullable_dtypes(project: Path, tmp_path: Path) -> None:
    data = pd.DataFrame({"y": pd.array([1, None], dtype="Int64"), "d": pd.to_datetime(["2013-01-01", None])})
    data.to_parquet(project / "a.parquet")
    read("a.parquet", tmp_path / "out")
    assert scan(tmp_path / "out").collect().rows() == [(1, dt.datetime(2013, 1, 1)), (None, None)]
