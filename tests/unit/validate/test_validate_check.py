"""Validation: every breach found, counted and sampled; bad schemas refused; memory bounded."""

import datetime as dt
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipway.dataset import DatasetWriter
from shipway.errors import InputError, RejectedError, UserCodeError
from shipway.lineage.documents import Breach, Findings, read_document
from shipway.spec.model import RowBounds, SchemaSection
from shipway.validate.check import Validation, admit, validate

Check = Callable[..., Validation]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Returns a function: rows and schema text -> what validation says."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setenv("SHIPWAY_PROJECT", str(project))

    def run(frame: pl.DataFrame, schema: str, name: str = "", /, **section: Any) -> Validation:
        file = f"schema_{tmp_path.name}.py" if name else "schema.yaml"
        (project / file).write_text(textwrap.dedent(schema))
        with DatasetWriter(tmp_path / "data", part_rows=7) as writer:
            writer.write(frame)
        target = f"{file}:{name}" if name else file
        return validate(tmp_path / "data", SchemaSection(pandera=target, **section))

    return run


def found(validation: Validation) -> dict[tuple[str, str], tuple[int | None, list[str]]]:
    return {(breach.column, breach.rule): (breach.rows, breach.samples) for breach in validation.findings.breaches}


GOOD = """
columns:
  id: {dtype: int64, unique: true}
  x: {dtype: float64, nullable: true, in_range: {min_value: 0, max_value: 1}}
  c: {dtype: str, isin: [a, b]}
strict: true
"""


def test_a_good_batch_is_accepted(check: Check) -> None:
    validation = check(pl.DataFrame({"id": [1, 2], "x": [0.5, None], "c": ["a", "b"]}), GOOD)
    assert validation.findings == Findings(verdict="accepted", rows=2, breaches=[])


def test_every_breach_is_listed(check: Check, tmp_path: Path) -> None:
    schema = """
    columns:
      id: {dtype: int64, unique: true}
      x: {dtype: float64, in_range: {min_value: 0, max_value: 1}}
      c: {dtype: str, isin: [a, b], str_length: {max_value: 3}}
      code: {dtype: str, str_matches: "[A-Z]{2}$"}
      gone: {dtype: int64}
      maybe: {dtype: int64, required: false}
      n: {dtype: int64, ge: 0}
    strict: true
    unique: [c, code]
    """
    rows = pl.DataFrame(
        {
            "id": [1, 1, 2, 3],
            "x": [0.5, None, -3.0, 9.0],
            "c": ["a", "a", "long", "b"],
            "code": ["AB", "AB", "x", "CD"],
            "n": ["1", "oops", "-5", None],
            "extra": [1, 2, 3, 4],
        }
    )
    validation = check(rows, schema, rows=RowBounds(min=10), nulls={"n": 0.1, "x": 0.9})
    assert found(validation) == {
        ("", "rows >= 10"): (None, []),
        ("gone", "required"): (None, []),
        ("extra", "strict"): (None, []),
        ("n", "dtype Int64"): (1, ["'oops'"]),
        ("id", "unique"): (2, ["1"]),
        ("x", "not null"): (1, []),
        ("x", "in_range(0.0, 1.0)"): (2, ["-3.0", "9.0"]),
        ("c", "isin(['a', 'b'])"): (1, ["'long'"]),
        ("c", "str_length(max_value=3)"): (1, ["'long'"]),
        ("code", "str_matches('[A-Z]{2}$')"): (1, ["'x'"]),
        ("n", "not null"): (1, []),
        ("n", "greater_than_or_equal_to(0)"): (1, ["-5"]),
        ("n", "nulls <= 0.1"): (1, []),
        ("", "unique(c, code)"): (2, ["('a', 'AB')"]),
    }
    validation.write(tmp_path / "findings.json", tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert all(text in report for text in ("rejected", "oops", "in_range(0.0, 1.0)", "4 rows, 6 columns, 14 breaches"))
    with pytest.raises(RejectedError) as refused:
        admit(tmp_path / "findings.json", "rejected")
    lines = str(refused.value).splitlines()
    assert lines[0] == "validation rejected the data: 14 breaches"
    assert lines[1] == "- 4 rows, expected at least 10"
    assert "- column 'n': expected Int64, found String; 1 of 3 values do not convert, as 'oops'" in lines
    assert len(lines) == 15
    assert read_document(Findings, tmp_path / "findings.json") == validation.findings


def test_admit_lets_the_accepted_pass(tmp_path: Path) -> None:
    admit(tmp_path / "none.json", "accepted")


def test_samples_are_bounded_and_distinct(check: Check) -> None:
    rows = pl.DataFrame({"x": [-1] * 50 + list(range(-100, 0)) + [1] * 10, "s": ["y" * 500] * 160})
    validation = check(rows, "columns: {x: {dtype: int64, ge: 0}, s: {dtype: str, str_length: {max_value: 5}}}")
    assert found(validation) == {
        ("x", "greater_than_or_equal_to(0)"): (150, ["-1", "-100", "-99", "-98", "-97"]),
        ("s", "str_length(max_value=5)"): (160, ["'" + "y" * 76 + "..."]),
    }


@pytest.mark.parametrize(
    ("values", "dtype", "fits"),
    [
        ([1, 2], "float64", True),
        ([1, 2], "int8", True),
        ([1, 300], "int8", False),
        ([1, -2], "uint8", False),
        ([1.0, 2.0], "int64", True),
        ([1.5, 2.0], "int64", False),
        ([0.1, None], "float32", True),
        ([None, None], "int64", True),
        ([None, None], "datetime64[ns]", True),
        (["a", "b"], "category", True),
        (["a", "b"], "Enum(categories=['a', 'b'])", True),
        (["1", "2"], "int64", False),
        ([1, 2], "str", False),
        ([0, 1], "bool", False),
        ([True, False], "int64", False),
        ([True, False], "boolean", True),
        ([dt.date(2013, 1, 1)], "datetime64[ns]", True),
        ([dt.datetime(2013, 1, 1)], "date", True),
        ([dt.datetime(2013, 1, 1, 5)], "date", False),
        ([dt.datetime(2013, 1, 1, 5)], "datetime64[ns, UTC]", True),
        (["2013-01-01"], "date", False),
        ([1], "datetime", False),
    ],
)
def test_only_lossless_differences_of_dtype_pass(check: Check, values: list[Any], dtype: str, fits: bool) -> None:
    validation = check(
        pl.DataFrame({"x": values}, strict=False), f'columns: {{x: {{dtype: "{dtype}", nullable: true}}}}'
    )
    assert validation.findings.verdict == ("accepted" if fits else "rejected"), validation.reasons


@pytest.mark.parametrize(
    ("values", "dtype", "rows", "samples"),
    [
        (["1", " 2 ", "x", "3.5", None], "int64", 2, ["'x'", "'3.5'"]),
        (["true", "no", None], "bool", 1, ["'no'"]),
        (["2013-01-01", "2013-02-30"], "date", 1, ["'2013-02-30'"]),
        (["2013-01-01 05:00:00", "late"], "datetime64[ns]", 1, ["'late'"]),
        ([1, 2, 0], "bool", 1, ["2"]),
        ([1, 2], "str", 0, []),
        ([1.5, 2.0], "int64", 1, ["1.5"]),
        ([True], "datetime", 1, ["True"]),
    ],
)
def test_dtype_breaches_say_what_does_not_convert(
    check: Check, values: list[Any], dtype: str, rows: int, samples: list[str]
) -> None:
    validation = check(pl.DataFrame({"x": values}), f'columns: {{x: {{dtype: "{dtype}", nullable: true}}}}')
    assert [(breach.rows, breach.samples) for breach in validation.findings.breaches] == [(rows, samples)]


def test_enum_values_are_checked(check: Check) -> None:
    validation = check(pl.DataFrame({"x": ["a", "z"]}), "columns: {x: {dtype: \"Enum(categories=['a', 'b'])\"}}")
    assert found(validation) == {("x", "isin(['a', 'b'])"): (1, ["'z'"])}


def test_time_bounds_as_text(check: Check) -> None:
    rows = pl.DataFrame({"d": [dt.date(2013, 1, 1), dt.date(2012, 1, 1)], "t": [dt.datetime(2013, 1, 1)] * 2})
    schema = "columns: {d: {dtype: date, ge: '2013-01-01'}, t: {dtype: 'datetime64[ns]', lt: 2013-01-01T00:00}}"
    assert found(check(rows, schema)) == {
        ("d", "greater_than_or_equal_to(2013-01-01 00:00:00)"): (1, ["2012-01-01"]),
        ("t", "less_than(2013-01-01 00:00:00)"): (2, ["2013-01-01 00:00:00"]),
    }


def test_pandera_semantics_of_nulls(check: Check) -> None:
    rows = pl.DataFrame({"x": [1, None, -1, None], "u": [None, None, 1, 2]})
    schema = """
    columns:
      x: {dtype: int64, nullable: true, greater_than: {min_value: 0, ignore_na: false}}
      u: {dtype: int64, nullable: true, unique: true}
    """
    assert found(check(rows, schema)) == {
        ("x", "greater_than(0)"): (3, ["null", "-1"]),
        ("u", "unique"): (2, ["null"]),
    }


def test_unconverted_values_are_not_counted_twice(check: Check) -> None:
    schema = "columns: {x: {dtype: int64, greater_than: {min_value: 0, ignore_na: false}}}"
    assert found(check(pl.DataFrame({"x": ["1", "oops", "-2"]}), schema)) == {
        ("x", "dtype Int64"): (1, ["'oops'"]),
        ("x", "greater_than(0)"): (1, ["-2"]),
    }


def test_regex_columns_and_order(check: Check) -> None:
    schema = """
    columns:
      f1: {dtype: float64}
      "f[0-9]+": {dtype: float64, regex: true, ge: 0}
      "q[0-9]+": {dtype: float64, regex: true}
    strict: true
    ordered: true
    """
    rows = pl.DataFrame({"f2": [1.0], "f1": [-1.0], "f3": [-2.0]})
    assert found(check(rows, schema)) == {
        ("q[0-9]+", "required"): (None, []),
        ("f3", "greater_than_or_equal_to(0.0)"): (1, ["-2.0"]),
    }


MODEL = """
import pandera.polars as pa
import polars as pl

class Model(pa.DataFrameModel):
    a: int = pa.Field(ge=0, unique=True)
    b: float = pa.Field(nullable=True)
    s: str

    @pa.check("a")
    def small(cls, data):
        return data.lazyframe.select(pl.col(data.key) < 100)

    @pa.check("b", name="mean is positive")
    def mean(cls, data):
        return data.lazyframe.select(pl.col("b").mean() > 0)

    @pa.check("s", element_wise=True)
    def short(cls, value):
        return len(value) < 4

    @pa.dataframe_check
    def a_below_b(cls, data):
        return data.lazyframe.select(pl.col("a") < pl.col("b"))

    @pa.dataframe_check(raise_warning=True)
    def many(cls, data):
        return data.lazyframe.select(pl.len() > 100)
"""


def test_model_with_its_own_checks(check: Check) -> None:
    good = pl.DataFrame({"a": [0, 1], "b": [5.0, None], "s": ["x", "y"]})
    accepted = check(good, MODEL, "Model")
    assert accepted.findings.breaches == []
    assert [warning.rule for warning in accepted.findings.warnings] == ["many"]
    bad = pl.DataFrame({"a": [-1, 500, 7], "b": [-50.0, 1.0, 8.0], "s": ["x", "toolong", "y"]})
    assert found(check(bad, MODEL, "Model")) == {
        ("a", "greater_than_or_equal_to(0)"): (1, ["-1"]),
        ("a", "small"): (1, ["500"]),
        ("b", "mean is positive"): (None, []),
        ("s", "short"): (1, ["'toolong'"]),
        ("", "a_below_b"): (
            2,
            ["{'a': -1, 'b': -50.0, 's': 'x'}", "{'a': 500, 'b': 1.0, 's': 'toolong'}"],
        ),
    }


def test_a_cross_column_check_without_its_column(check: Check) -> None:
    assert found(check(pl.DataFrame({"a": [0, 1], "s": ["x", "y"]}), MODEL, "Model")) == {
        ("b", "required"): (None, []),
        ("", "a_below_b"): (None, []),
    }


def test_a_cross_column_check_on_a_broken_column(check: Check) -> None:
    rows = pl.DataFrame({"a": [0, 9, 2], "b": ["5", "1", "oops"], "s": ["x", "y", "z"]})
    assert found(check(rows, MODEL, "Model")) == {
        ("b", "dtype Float64"): (1, ["'oops'"]),
        ("", "a_below_b"): (1, ["{'a': 9, 'b': 1.0, 's': 'y'}"]),
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('boo')", r"check bad on column 'a': ValueError: boo"),
        ("return data.lazyframe.select(pl.col('nope') > 1)", r"check bad on column 'a': ColumnNotFoundError"),
        ("return 3", r"check bad on column 'a': expected a LazyFrame of booleans or a boolean, it gave int"),
        ("return data.lazyframe.select('a')", r"check bad on column 'a': expected booleans, it gave .*Int64"),
    ],
)
def test_a_check_of_the_users_that_fails_itself(check: Check, body: str, message: str) -> None:
    schema = f"""
    import pandera.polars as pa
    import polars as pl

    def bad(data):
        {body}

    Schema = pa.DataFrameSchema({{"a": pa.Column(int, pa.Check(bad))}})
    """
    with pytest.raises(UserCodeError, match=message):
        check(pl.DataFrame({"a": [1]}), schema, "Schema")


def test_an_elementwise_check_that_raises(check: Check) -> None:
    schema = """
    import pandera.polars as pa
    Schema = pa.DataFrameSchema({"a": pa.Column(int, pa.Check(lambda v: 1 / 0, element_wise=True, name="div"))})
    """
    with pytest.raises(UserCodeError, match=r"check div on column 'a': ZeroDivisionError"):
        check(pl.DataFrame({"a": [1]}), schema, "Schema")


def test_checks_that_cannot_work_are_the_schemas_fault(check: Check) -> None:
    with pytest.raises(InputError, match=r"columns.s.str_matches: missing \), unterminated subpattern"):
        check(pl.DataFrame({"s": ["a"]}), "columns: {s: {dtype: str, str_matches: '('}}")
    with pytest.raises(InputError, match=r"check str_matches\('\(\?=a\)'\) on column 's': cannot be applied: regex"):
        check(pl.DataFrame({"s": ["a"]}), "columns: {s: {dtype: str, str_matches: '(?=a)'}}")
    with pytest.raises(InputError, match=r"check isin\(\[1, 2\]\) on column 's': cannot be applied"):
        check(pl.DataFrame({"s": ["a"]}), "columns: {s: {dtype: str, isin: [1, 2]}}")


def test_an_undeclared_column_of_the_wrong_kind_is_a_breach(check: Check) -> None:
    assert found(check(pl.DataFrame({"s": ["a"]}), "columns: {s: {ge: 1}}")) == {
        ("s", "greater_than_or_equal_to(1)"): (None, [])
    }


def test_unknown_column_in_nulls(check: Check) -> None:
    with pytest.raises(InputError, match=r"schema.nulls: neither the schema nor the data have 'nope'"):
        check(pl.DataFrame({"id": [1], "x": [0.1], "c": ["a"]}), GOOD, nulls={"nope": 0.5})


def test_null_share_of_a_missing_column_is_told_once(check: Check) -> None:
    validation = check(pl.DataFrame({"id": [1], "c": ["a"]}), GOOD, nulls={"x": 0.5})
    assert found(validation) == {("x", "required"): (None, [])}


def test_an_empty_batch_breaks_the_row_bound_only(check: Check) -> None:
    empty = pl.DataFrame(schema={"id": pl.String, "x": pl.String, "c": pl.String})
    validation = check(empty, GOOD)
    assert found(validation) == {("", "rows >= 1"): (None, [])}


def test_too_many_rows(check: Check) -> None:
    validation = check(pl.DataFrame({"id": [1, 2, 3]}), "columns: {id: {dtype: int64}}", rows=RowBounds(min=0, max=2))
    assert validation.reasons == ["3 rows, expected at most 2"]


def test_names_with_any_characters(check: Check, tmp_path: Path) -> None:
    rows = pl.DataFrame({"größe <b>": [-1.0], "a\nb": [1], "": [1]})
    schema = 'columns: {"größe <b>": {dtype: float64, ge: 0}, "a\\nb": {dtype: int64, le: 0}, "": {dtype: int64}}'
    validation = check(rows, schema)
    assert {column for column, _ in found(validation)} == {"größe <b>", "a\nb"}
    validation.write(tmp_path / "f.json", tmp_path / "r.html")
    assert "<b>" not in (tmp_path / "r.html").read_text()


def test_duplicates_counted_as_pandera_is_told(check: Check) -> None:
    rows = pl.DataFrame({"x": [1, 1, 1, 2, 2, 3]})
    both = [
        check(rows, f"columns: {{x: {{dtype: int64, unique: true, report_duplicates: {how}}}}}")
        for how in ("all", "exclude_first")
    ]
    assert [found(validation)["x", "unique"] for validation in both] == [(5, ["1", "2"]), (3, ["1", "2"])]


def test_whole_column_built_in(check: Check) -> None:
    schema = "columns: {x: {dtype: str, unique_values_eq: [a, b]}}"
    assert check(pl.DataFrame({"x": ["a", "b", "a"]}), schema).reasons == []
    [reason] = check(pl.DataFrame({"x": ["a"]}), schema).reasons
    assert reason.startswith("column 'x': unique_values_eq(")
    assert reason.endswith("does not hold")


def test_breach_model_is_plain() -> None:
    assert Breach(column="x", rule="r", rows=None, message="m").samples == []
