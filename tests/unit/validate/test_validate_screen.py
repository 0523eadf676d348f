"""Screening: which rows are set aside and why, what refuses the whole batch, and that the label is not asked for."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipway.dataset import DatasetWriter, read_info, scan
from shipway.dataset.quarantine import REASONS, ROW, quarantined_rows
from shipway.errors import InputError, RejectedError
from shipway.lineage.documents import Findings, read_document
from shipway.validate.check import validate
from shipway.validate.screen import Screening, screen_rows

Screen = Callable[..., tuple[Screening, pl.DataFrame]]

SCHEMA = """
columns:
  id: {dtype: int64, unique: true}
  x: {dtype: float64, in_range: {min_value: 0, max_value: 1}}
  n: {dtype: int64, nullable: true}
  c: {dtype: str, nullable: true, isin: [a, b]}
  y: {dtype: bool}
strict: true
"""
ROWS = pl.DataFrame({"id": range(10), "x": [0.1] * 10, "n": [1] * 10, "c": ["a", "b"] * 5})


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Returns a function: rows, schema text, sections -> what screening says, and the quarantine."""
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))

    def run(frame: pl.DataFrame, schema: str = SCHEMA, most: float = 1.0, **section: Any) -> Any:
        name = f"schema_{tmp_path.name}.py" if "class " in schema else "schema.yaml"
        (tmp_path / name).write_text(textwrap.dedent(schema))
        with DatasetWriter(tmp_path / "rows", part_rows=max(4, frame.height // 3)) as writer:
            writer.write(frame)
        target = f"{name}:Rows" if "class " in schema else name
        sections = {"pandera": target, **section}, {"uri": "x", "label": "y"}, {"max_quarantine": most}
        texts = [json.dumps({"section": body, "code": ""}) for body in sections]
        found = screen_rows(tmp_path / "rows", tmp_path / "quarantine", *texts)
        found.write(tmp_path / "findings.json", tmp_path / "report.html")
        return found, scan(tmp_path / "quarantine").collect()

    return run


def reasons(quarantine: pl.DataFrame) -> dict[int, str]:
    return dict(quarantine.select(ROW, REASONS).iter_rows())


def test_good_rows_pass_without_label_or_row_bounds(screen: Screen, tmp_path: Path) -> None:
    for frame in (ROWS, ROWS.with_columns(y=pl.lit(None, dtype=pl.Boolean)), ROWS.head(0)):
        found, quarantine = screen(frame, most=0.0, rows={"min": 1000}, nulls={"y": 0.0})
        found.require()
        assert found.findings == Findings(verdict="accepted", rows=frame.height, breaches=[])
        assert quarantine.schema == pl.Schema({ROW: pl.Int64, REASONS: pl.String} | dict(frame.schema))
        assert quarantine.height == 0
    assert read_document(Findings, tmp_path / "findings.json").verdict == "accepted"


def test_each_row_is_set_aside_with_every_reason(screen: Screen, tmp_path: Path) -> None:
    frame = ROWS.with_columns(
        id=pl.Series([0, 1, 1, 3, 4, 5, 6, 7, 8, 3]),
        x=pl.Series([0.1, 7.0, None, 0.1, 0.1, 0.1, -1.0, 0.1, 0.1, 0.1]),
        n=pl.Series([1.0, 2.0, 3.0, 4.0, 5.0, 2.5, 6.0, 7.0, 8.0, 9.0]),
        c=pl.Series(["a", "b", "a", "b", "z", "b", "a", "b", None, "b"]),
    )
    found, quarantine = screen(frame)
    found.require()
    assert reasons(quarantine) == {
        1: "id: unique; x: in_range(0.0, 1.0)",
        2: "id: unique; x: not null",
        3: "id: unique",
        4: "c: isin(['a', 'b'])",
        5: "n: dtype Int64",
        6: "x: in_range(0.0, 1.0)",
        9: "id: unique",
    }
    assert quarantine.drop(ROW, REASONS).equals(frame[[1, 2, 3, 4, 5, 6, 9]])
    assert quarantined_rows(tmp_path / "quarantine").tolist() == [1, 2, 3, 4, 5, 6, 9]
    assert found.facts == {"verdict": "accepted", "rows": 10, "quarantined": 7}
    assert "7 rows set aside" in (tmp_path / "report.html").read_text()


def test_more_than_the_tolerance_refuses_the_batch(screen: Screen, tmp_path: Path) -> None:
    frame = ROWS.with_columns(x=pl.Series([9.0, 9.0] + [0.5] * 8))
    screen(frame, most=0.2)[0].require()
    found, quarantine = screen(frame, most=0.19)
    assert quarantine.height == 2
    with pytest.raises(RejectedError) as caught:
        found.require()
    assert str(caught.value).splitlines() == [
        "the batch is refused",
        "- 2 of 10 rows fail validation (20.00%); inference.max_quarantine allows 19.00%",
        "- column 'x': in_range(0.0, 1.0) fails in 2 rows, as 9.0",
    ]
    assert read_document(Findings, tmp_path / "findings.json").verdict == "rejected"
    assert "rejected" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("bad", "rows", "most"), [(29, 100, 0.29), (57, 100, 0.57), (7, 1000, 0.007), (0, 10, 0.0)])
def test_just_as_many_as_the_tolerance_pass(screen: Screen, bad: int, rows: int, most: float) -> None:
    frame = pl.DataFrame({"id": range(rows), "x": [0.5] * rows, "n": [1] * rows, "c": ["a"] * rows})

    def broken(count: int) -> pl.DataFrame:
        return frame.with_columns(x=pl.when(pl.col("id") < count).then(9.0).otherwise("x"))

    found, quarantine = screen(broken(bad), most=most)
    found.require()
    assert quarantine.height == bad
    with pytest.raises(RejectedError, match=rf"{bad + 1} of {rows:,} rows? fail"):
        screen(broken(bad + 1), most=most)[0].require()


def test_other_rows_set_aside_by_the_same_rule_are_another_quarantine(screen: Screen, tmp_path: Path) -> None:
    """The version of the quarantine is part of a batch's id: a check that was corrected makes another batch."""
    schema = """
    import pandera.polars as pa
    import polars as pl

    class Rows(pa.DataFrameModel):
        id: int

        @pa.dataframe_check
        def sound(cls, data):
            return data.lazyframe.select(pl.col("id") != {wrong})
    """
    versions = []
    for wrong in (7, 3):
        sys.modules.pop(f"schema_{tmp_path.name}", None)
        found, quarantine = screen(ROWS.select("id"), schema.format(wrong="(3)" if versions else "7"))
        assert (found.quarantined, reasons(quarantine)) == (1, {wrong: "sound"})
        versions.append(read_info(tmp_path / "quarantine").version)
    assert versions[0] != versions[1]


def test_a_bound_on_the_nulls_of_a_label_that_the_schema_does_not_name(screen: Screen) -> None:
    schema = """
    columns:
      id: {dtype: int64}
    """
    screen(ROWS.select("id"), schema, most=0.0, nulls={"y": 0.0})[0].require()


@pytest.mark.parametrize(
    ("change", "section", "message"),
    [
        (lambda rows: rows.drop("x"), {}, "column 'x' is missing"),
        (lambda rows: rows.with_columns(more=1), {}, "column 'more': not in the schema"),
        (lambda rows: rows.with_columns(c=1), {}, "column 'c': expected String, found Int32"),
        (
            lambda rows: rows.with_columns(n=None),
            {"nulls": {"n": 0.5}},
            "column 'n': 100.00% null, expected at most 50",
        ),
    ],
)
def test_what_is_wrong_with_the_whole_refuses_it(
    screen: Screen, change: Callable[[pl.DataFrame], pl.DataFrame], section: dict[str, Any], message: str
) -> None:
    found, _ = screen(change(ROWS), most=1.0, **section)
    with pytest.raises(RejectedError, match=message):
        found.require()


def test_one_bad_cell_of_a_text_column_is_one_row(screen: Screen) -> None:
    found, quarantine = screen(ROWS.with_columns(x=pl.Series(["0.5"] * 9 + ["oops"]), n=pl.lit("7")))
    found.require()
    assert reasons(quarantine) == {9: "x: dtype Float64"}


@pytest.mark.filterwarnings("ignore:Setting report_duplicates")
@pytest.mark.parametrize(
    ("kept", "expected"), [("exclude_first", [2, 4]), ("exclude_last", [0, 2]), ("all", [0, 2, 4])]
)
def test_which_of_equal_rows_are_set_aside(screen: Screen, kept: str, expected: list[int]) -> None:
    schema = f"""
    columns:
      a: {{dtype: int64, nullable: true}}
      b: {{dtype: str, nullable: true}}
    unique: [a, b]
    report_duplicates: {kept}
    """
    frame = pl.DataFrame(
        {"a": [None, 1, None, 2, None], "b": ["x", "x", "x", "x", "x"]}, schema={"a": pl.Int64, "b": pl.String}
    )
    assert list(reasons(screen(frame, schema)[1])) == expected


def test_checks_of_the_users_own(screen: Screen) -> None:
    schema = """
    import pandera.polars as pa
    import polars as pl

    class Rows(pa.DataFrameModel):
        id: int
        x: float
        y: bool

        @pa.check("x")
        def near_the_mean(cls, data):
            return data.lazyframe.select((pl.col(data.key) - pl.col(data.key).mean()).abs() < 5)

        @pa.dataframe_check
        def consistent(cls, data):
            return data.lazyframe.select(pl.col("id") != 4)

        @pa.dataframe_check
        def with_the_label(cls, data):
            return data.lazyframe.select(pl.col("y") | (pl.col("x") > 0))
    """
    frame = ROWS.select("id", x=pl.Series([0.0] * 7 + [9.0] + [0.0] * 2))
    found, quarantine = screen(frame, schema)
    found.require()
    assert reasons(quarantine) == {4: "consistent", 7: "x: near_the_mean"}


def test_a_column_with_the_quarantines_own_name(screen: Screen) -> None:
    with pytest.raises(InputError, match="'shipway_row': the name is Shipway's own"):
        screen(ROWS.with_columns(shipway_row=1))


def test_screening_and_validation_agree(screen: Screen, tmp_path: Path) -> None:
    """What validation counts is what screening sets aside, on rows broken at random."""
    from shipway.spec.model import SchemaSection

    draw = np.random.default_rng(3)
    count = 30_000
    frame = pl.DataFrame(
        {
            "id": draw.integers(0, count, count),
            "x": np.where(draw.random(count) < 0.01, 2.0, 0.5),
            "n": draw.integers(0, 9, count),
            "c": np.where(draw.random(count) < 0.01, "z", "a"),
            "y": draw.random(count) < 0.5,
        }
    )
    found, quarantine = screen(frame)
    counted = {
        (breach.column, breach.rule): breach.rows
        for breach in validate(tmp_path / "rows", SchemaSection(pandera="schema.yaml")).findings.breaches
    }
    assert {(breach.column, breach.rule): breach.rows for breach in found.findings.breaches} == counted
    broken = (frame["x"] > 1) | (frame["c"] == "z") | frame["id"].is_duplicated()
    assert quarantine[ROW].to_list() == broken.arg_true().to_list()
