"""Pandera schemas of every kind; faults are told, never passed over."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pandera.pandas
import pandera.polars
import polars as pl
import pytest

from shipway.dataset.schema import ColumnSpec, load_schema, schema_columns
from shipway.errors import InputError, UserCodeError

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))

    def run(text: str, name: str = "schema.yaml") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return run


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        *[
            (name, "number")
            for name in ("int64", "Int64", "int", "uint8", "float", "float32", "Float64", "int64[pyarrow]")
        ],
        *[(name, "boolean") for name in ("bool", "boolean", "Boolean", "bool[pyarrow]")],
        *[
            (name, "category")
            for name in ("str", "object", "string", "String", "string[pyarrow]", "category", "Categorical")
        ],
        ("Enum(categories=['a', 'b'])", "category"),
        *[
            (name, "time")
            for name in ("datetime64[ns]", "datetime64[us, UTC]", "Datetime", "date", "Date", "timestamp[ns][pyarrow]")
        ],
        ("timedelta64[ns]", "other"),
    ],
)
def test_pandas_and_polars_names_of_dtypes(write: Write, dtype: str, kind: str) -> None:
    write(f'columns: {{a: {{dtype: "{dtype}"}}}}', "schema.yaml")
    assert schema_columns("schema.yaml")["a"].kind == kind


def test_columns_as_featurize_sees_them(write: Write) -> None:
    text = """
    columns:
      n: {dtype: int64}
      c: {dtype: str, nullable: true, isin: [a, b]}
      o: {required: false, isin: [x]}
      e: {dtype: "Enum(categories=['u', 'v'])", isin: [v]}
      u: {}
      "f.*": {dtype: float64, regex: true}
    """
    assert list(schema_columns(write(text, "schema.yaml")).values()) == [
        ColumnSpec("n", "number", False, True, None),
        ColumnSpec("c", "category", True, True, ["a", "b"]),
        ColumnSpec("o", "category", False, False, ["x"]),
        ColumnSpec("e", "category", False, True, ["v"]),
        ColumnSpec("u", "other", False, True, None),
    ]


def test_the_tables_dtype_is_every_columns(write: Write) -> None:
    assert schema_columns(write("{dtype: float64, columns: {a: {}}}", "schema.yaml"))["a"].kind == "number"


def test_panderas_own_yaml_comes_back(write: Write) -> None:
    polars_schema = pandera.polars.DataFrameSchema(
        {
            "a": pandera.polars.Column(pl.Int32, pandera.polars.Check.ge(0), unique=True),
            "t": pandera.polars.Column(pl.Datetime("us"), nullable=True),
            "s": pandera.polars.Column(
                pl.String, [pandera.polars.Check.str_length(1, 3), pandera.polars.Check.isin(["x"])]
            ),
        },
        strict=True,
        unique=["a", "s"],
    )
    for minimal in (True, False):
        write(polars_schema.to_yaml(minimal=minimal), "polars.yaml")
        assert load_schema("polars.yaml") == polars_schema
    pandas_schema = pandera.pandas.DataFrameSchema(
        {
            "a": pandera.pandas.Column("int32", pandera.pandas.Check.ge(0), unique=True),
            "t": pandera.pandas.Column("datetime64[ns]", nullable=True),
            "s": pandera.pandas.Column(str, [pandera.pandas.Check.str_length(1, 3), pandera.pandas.Check.isin(["x"])]),
        },
        index=pandera.pandas.Index(int),
        strict=True,
        unique=["a", "s"],
    )
    for minimal in (True, False):
        write(pandas_schema.to_yaml(minimal=minimal), "pandas.yaml")
        assert load_schema("pandas.yaml") == polars_schema


def test_inferred_pandas_schema(write: Write) -> None:
    frame = pd.DataFrame({"a": [1, 2], "f": [0.5, None], "s": ["x", "y"], "t": pd.to_datetime(["2013-01-01"] * 2)})
    write(pandera.pandas.infer_schema(frame).to_yaml(), "schema.yaml")
    kinds = {name: column.kind for name, column in schema_columns("schema.yaml").items()}
    assert kinds == {"a": "number", "f": "number", "s": "category", "t": "time"}


PYTHON = """
import pandera.pandas as pa
import pandera.polars as pp
import polars as pl

class Polars(pp.DataFrameModel):
    a: int = pp.Field(ge=0)

    @pp.dataframe_check
    def own(cls, data):
        return data.lazyframe.select(pl.col("a") > 1)

class Pandas(pa.DataFrameModel):
    a: int = pa.Field(ge=0)

class Own(pa.DataFrameModel):
    a: int

    @pa.check("a")
    def small(cls, column):
        return column < 9

Object = pp.DataFrameSchema({"a": pp.Column(pl.Int64, pp.Check.ge(0))})
Default = pp.DataFrameSchema({"a": pp.Column(int, default=0)})
Dropping = pp.DataFrameSchema({"a": pp.Column(int)}, drop_invalid_rows=True)
Grouped = pp.DataFrameSchema({"a": pp.Column(int, pp.Check.ge(0, groupby="b", name="grouped")), "b": pp.Column(int)})
nothing = 3

class Broken(pp.DataFrameModel):
    a = pp.Field(ge=0)
"""


def test_python_schemas(write: Write) -> None:
    write(PYTHON, "schemas_of_this_test.py")
    for name in ("Polars", "Pandas", "Object"):
        columns = schema_columns(f"schemas_of_this_test.py:{name}")
        assert columns == {"a": ColumnSpec("a", "number", False, True, None)}, name
        [check] = load_schema(f"schemas_of_this_test.py:{name}").columns["a"].checks
        assert check.statistics == {"min_value": 0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Own", r"runs? on pandas frames only \(column 'a': check 'small'\); write it with pandera.polars"),
        ("Default", r"a\.default: validation checks data and never changes it"),
        ("Dropping", r"drop_invalid_rows: validation checks data and never changes it"),
        ("nothing", r"is no pandera.polars DataFrameModel or DataFrameSchema, found int"),
        ("Grouped", r"a\.grouped: groupby is not supported"),
        ("Broken", r"is not a valid schema: Found missing annotations: \['a'\]"),
        ("Gone", r"has no 'Gone'"),
    ],
)
def test_python_schemas_that_are_refused(write: Write, name: str, message: str) -> None:
    write(PYTHON, "more_schemas_of_this_test.py")
    with pytest.raises(InputError, match=message):
        load_schema(f"more_schemas_of_this_test.py:{name}")


def test_a_schema_file_that_raises(write: Write) -> None:
    write("1 / 0", "raising_schema.py")
    with pytest.raises(UserCodeError, match=r"raising_schema\.py.*ZeroDivisionError"):
        load_schema("raising_schema.py:Model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"schema\.yaml: not a Pandera schema: expected a mapping with `columns`"),
        ("- a", r"not a Pandera schema"),
        ("columns: {}", r"not a Pandera schema"),
        ("columns: {a: {dtype: int64}", r"schema\.yaml:1: not YAML"),
        ("columns:\n  a: {}\n  a: {}", r"schema\.yaml:3: 'a' is given twice"),
        ("columns: {a: {dtype: int65}}", r"columns\.a\.dtype: unknown dtype 'int65'"),
        ("columns: {a: {greater_then: 0}}", r"columns\.a\.greater_then: unknown key"),
        ("{columns: {a: {}}, colums: {}}", r"schema\.yaml: colums: unknown key"),
        ("columns: {a: 3}", r"columns\.a: expected a name and a mapping"),
        ("columns: {a: {nullable: maybe}}", r"columns\.a\.nullable: expected true or false, found 'maybe'"),
        ("columns: {a: {dtype: int64, ge: zero}}", r"columns\.a\.ge: expected a number, found 'zero'"),
        ("columns: {a: {ge: }}", r"columns\.a\.ge: needs a value"),
        ("columns: {a: {in_range: {min_value: 2, max_value: 1}}}", r"columns\.a\.in_range: "),
        ("columns: {a: {in_range: {min: 2, max: 1}}}", r"columns\.a\.in_range: .*missing required arguments"),
        ("columns: {a: {dtype: date, ge: yesterday}}", r"columns\.a\.ge: Invalid isoformat"),
        ("columns: {a: {checks: [{value: 1, options: {check_name: own}}]}}", r"no built-in check 'own'"),
        ("columns: {a: {ge: {min_value: 1, groupby: b}}}", r"columns\.a\.ge: .*groupby"),
        ("columns: {a: {default: 0}}", r"columns\.a\.default: validation checks data and never changes it"),
        ("{columns: {a: {}}, unique: [b]}", r"unique: there is no column 'b'"),
        ("{columns: {a: {}}, index: [{name: b}]}", r"index: a dataset has no index"),
        ("{columns: {a: {}}, checks: {own: 1}}", r"checks: no built-in check 'own'"),
    ],
)
def test_yaml_that_is_refused(write: Write, text: str, message: str) -> None:
    write(text, "schema.yaml")
    with pytest.raises(InputError, match=message):
        load_schema("schema.yaml")


def test_every_fault_is_listed(write: Write) -> None:
    write("columns: {a: {dtype: int65, greater_then: 0}, b: {unique: true, nul: 1}}", "schema.yaml")
    with pytest.raises(InputError) as refused:
        load_schema("schema.yaml")
    assert len(str(refused.value).splitlines()) == 3


def test_no_such_schema(write: Write) -> None:
    with pytest.raises(InputError, match=r"schema.pandera: no file .*none\.yaml"):
        load_schema("none.yaml")
    with pytest.raises(InputError, match=r"expected FILE\.py:NAME"):
        load_schema(write("x = 1", "schema_without_name.py"))
