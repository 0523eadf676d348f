"""The user's Pandera schema: YAML or Python, for pandas or for Polars, in one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from shipway.dataset.schema_yaml import build_schema, first_line, read_schema_yaml
from shipway.errors import InputError
from shipway.lineage.project import load_object, project_file, user_code

if TYPE_CHECKING:
    import polars as pl
    from pandera.polars import DataFrameSchema

Kind = Literal["number", "boolean", "category", "time", "other"]

_SETTING = "schema.pandera"


@dataclass(frozen=True)
class ColumnSpec:
    """What the schema says about one column.

    Attributes:
        name: The column.
        kind: `number` (integers, floats, decimals), `boolean`, `category` (strings, enums, categoricals), `time`
            (dates, datetimes) or `other` (also a column without a dtype, unless its allowed values tell).
        nullable: Whether nulls are allowed.
        required: Whether the column must be there.
        values: The allowed values, where the schema lists them.
    """

    name: str
    kind: Kind
    nullable: bool
    required: bool
    values: list[Any] | None


def load_schema(target: str) -> DataFrameSchema:
    """Loads the Pandera schema that a spec names.

    Args:
        target: `FILE.yaml` in the project folder (Pandera's own YAML, for pandas or Polars), or `FILE.py:NAME` of a
            DataFrameModel or DataFrameSchema. A pandas one is converted, which its own check functions rule out.

    Raises:
        InputError: No such file or name, not a schema, or one that asks for what Shipway does not do; every fault of a
            YAML schema is listed.
        UserCodeError: The user's Python raised.
    """
    if target.endswith((".yaml", ".yml")):
        schema = read_schema_yaml(project_file(target, _SETTING))
    else:
        schema = _from_object(load_object(target, _SETTING), target)
    _refuse_changes(schema, target)
    for column in schema.columns.values():
        column_dtype(schema, column)
    return schema


def schema_columns(target: str) -> dict[str, ColumnSpec]:
    """Returns the columns that a schema declares, by name, in its order.

    Columns declared by a pattern (`regex`) are checked by validation but cannot be listed, and are left out.

    Raises:
        InputError: As for `load_schema`.
        UserCodeError: As for `load_schema`.
    """
    schema = load_schema(target)
    columns: dict[str, ColumnSpec] = {}
    for name, column in schema.columns.items():
        if column.regex:
            continue
        dtype = column_dtype(schema, column)
        values = _allowed_values(column, dtype)
        columns[name] = ColumnSpec(name, _kind(dtype, values), bool(column.nullable), bool(column.required), values)
    return columns


def column_dtype(schema: DataFrameSchema, column: Any) -> pl.DataType | None:
    """Returns the Polars dtype that a schema wants for one of its columns, or None where it wants none.

    Raises:
        InputError: The dtype is one that Polars cannot store.
    """
    import polars as pl

    wanted = schema.dtype or column.dtype
    if wanted is None:
        return None
    found = getattr(wanted, "type", None)
    if isinstance(found, type) and issubclass(found, pl.DataType):
        found = found()
    if not isinstance(found, pl.DataType) or isinstance(found, pl.Object):
        raise InputError(f"{_SETTING}: column {column.name!r}: dtype {wanted} is not supported")
    return found


def is_builtin_check(check: Any) -> bool:
    """Tells Pandera's own checks (ranges, allowed values, patterns ...) from the user's functions."""
    from pandera.api.function_dispatch import Dispatcher

    return isinstance(check._check_fn, Dispatcher)


def _from_object(found: Any, target: str) -> DataFrameSchema:
    from pandera.polars import DataFrameModel, DataFrameSchema

    if isinstance(found, DataFrameSchema):
        return found
    if isinstance(found, type) and issubclass(found, DataFrameModel):
        schema: DataFrameSchema = _built(found, target)
        return schema
    # Whoever wrote a pandas schema has imported pandas; nobody else should pay for it.
    kinds = found.__mro__ if isinstance(found, type) else type(found).__mro__
    if any(kind.__module__.startswith("pandera.api.pandas.") for kind in kinds):
        from pandera.api.pandas.container import DataFrameSchema as PandasSchema

        return _from_pandas(found if isinstance(found, PandasSchema) else _built(found, target), target)
    raise InputError(
        f"{_SETTING}: {target} is no pandera.polars DataFrameModel or DataFrameSchema, found {type(found).__name__}"
    )


def _built(model: Any, target: str) -> Any:
    """Returns a model's schema; what Pandera refuses is a fault of the schema, anything else one of the user's code."""
    from pandera.errors import SchemaDefinitionError, SchemaInitError

    if not hasattr(model, "to_schema"):
        raise InputError(f"{_SETTING}: {target} is no DataFrameModel or DataFrameSchema, found {type(model).__name__}")
    with user_code(f"{_SETTING} {target}"):
        try:
            return model.to_schema()
        except (SchemaInitError, SchemaDefinitionError) as error:
            raise InputError(f"{_SETTING}: {target} is not a valid schema: {first_line(error)}") from error


def _from_pandas(schema: Any, target: str) -> DataFrameSchema:
    """Converts a pandas schema by way of its serialised form, which holds built-in checks only."""
    from pandera.io.pandas_io import serialize_schema

    faults = _pandas_only("", schema)
    for name, column in schema.columns.items():
        faults += _pandas_only(f"column {name!r}: ", column)
    if faults:
        raise InputError(
            f"{_SETTING}: {target} is a pandas schema with what runs on pandas frames only ({'; '.join(faults)}); "
            "write it with pandera.polars"
        )
    values = serialize_schema(schema)
    if values.get("dtype") is not None:
        values["dtype"] = str(values["dtype"])
    return build_schema(values, target)


def _pandas_only(where: str, part: Any) -> list[str]:
    own = [check for check in part.checks if not is_builtin_check(check) or check.groupby]
    return [f"{where}check {check.name!r}" for check in own] + [f"{where}parsers"] * bool(part.parsers)


def _refuse_changes(schema: DataFrameSchema, target: str) -> None:
    """Refuses what would change the data, which Pandera does on the copy that it returns."""
    parts = [("", schema), *((f"{name}.", column) for name, column in schema.columns.items())]
    faults = [
        f"{where}{key}"
        for where, part in parts
        for key in ("add_missing_columns", "drop_invalid_rows", "parsers")
        if getattr(part, key, None)
    ]
    # A default of 0 or "" is one too.
    faults += [f"{name}.default" for name, column in schema.columns.items() if column.default is not None]
    if faults:
        raise InputError(f"{_SETTING}: {target}: {', '.join(faults)}: validation checks data and never changes it")
    grouped = [f"{where}{check.name}" for where, part in parts for check in part.checks if check.groupby]
    if grouped:
        raise InputError(
            f"{_SETTING}: {target}: {', '.join(grouped)}: groupby is not supported, "
            "Pandera's Polars checks pass over it"
        )


def _allowed_values(column: Any, dtype: pl.DataType | None) -> list[Any] | None:
    import polars as pl

    allowed: list[Any] | None = dtype.categories.to_list() if isinstance(dtype, pl.Enum) else None
    for check in column.checks:
        if is_builtin_check(check) and "allowed_values" in check.statistics:
            values = list(check.statistics["allowed_values"])
            allowed = values if allowed is None else [value for value in allowed if value in values]
    return allowed


def _kind(dtype: pl.DataType | None, values: list[Any] | None) -> Kind:
    import polars as pl

    if dtype is None:
        return "category" if values and all(isinstance(value, str) for value in values) else "other"
    if dtype.is_numeric():
        return "number"
    if dtype == pl.Boolean:
        return "boolean"
    if isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
        return "category"
    return "time" if isinstance(dtype, (pl.Date, pl.Datetime)) else "other"
