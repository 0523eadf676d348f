"""Pandera's serialised schema (YAML), for pandas or for Polars, read into a Polars schema.

Pandera's own reader passes over keys that it does not know, so that `greater_then: 0` checks nothing, and it reads a
pandas schema's dtype names for pandas only. Here unknown keys are refused, names translated, and every fault told.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.errors import InputError

if TYPE_CHECKING:
    from pandera.polars import DataFrameSchema

_TABLE_KEYS = (
    "add_missing_columns", "api", "checks", "coerce", "columns", "dataframe_library", "description",
    "drop_invalid_rows", "dtype", "index", "metadata", "multiindex", "name", "ordered", "report_duplicates",
    "schema_type", "strict", "title", "unique", "unique_column_names", "version",
)  # fmt: skip
_COLUMN_KEYS = (
    "checks", "coerce", "default", "description", "drop_invalid_rows", "dtype", "metadata", "name", "nullable", "regex",
    "report_duplicates", "required", "title", "unique",
)  # fmt: skip
_CHECKS = (
    "equal_to", "greater_than", "greater_than_or_equal_to", "in_range", "isin", "less_than", "less_than_or_equal_to",
    "not_equal_to", "notin", "str_contains", "str_endswith", "str_length", "str_matches", "str_startswith",
    "unique_values_eq",
)  # fmt: skip
_ALIASES = ("eq", "ne", "gt", "ge", "lt", "le", "between")
_OPTIONS = ("error", "ignore_na", "n_failure_cases", "name", "raise_warning")
_FLAGS = ("coerce", "nullable", "ordered", "regex", "required", "unique_column_names")
_CHANGES = ("add_missing_columns", "default", "drop_invalid_rows")
_PANDAS_NAMES = {
    "int": "Int64",
    "float": "Float64",
    "double": "Float64",
    "str": "String",
    "string": "String",
    "large_string": "String",
    "object": "String",
    "bool": "Boolean",
    "boolean": "Boolean",
    "category": "Categorical",
    "date32[day]": "Date",
}
_PANDAS_TIME = re.compile(r"(datetime64|timestamp)(\[.*\])?$")
_PANDAS_SPAN = re.compile(r"(timedelta64|duration)(\[.*\])?$")


def read_schema_yaml(path: Path) -> DataFrameSchema:
    """Reads a Pandera YAML schema.

    Raises:
        InputError: The file is unreadable, no YAML or no valid schema; every fault is listed with its place.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read the schema: {error}") from error
    repeated = [f"{path}:{line}: {key!r} is given twice" for key, line in _repeated(node)]
    if repeated:
        raise InputError("\n".join(repeated))
    return build_schema(values, str(path))


def build_schema(values: Any, where: str) -> DataFrameSchema:
    """Builds a Polars schema from Pandera's serialised form.

    Args:
        values: What the YAML says.
        where: The file or import path it comes from, to begin every error message.

    Raises:
        InputError: It is no valid schema, or asks for what Shipway does not do.
    """
    import pandera.io.polars_io
    from pandera.errors import SchemaDefinitionError, SchemaInitError

    if not isinstance(values, dict) or not isinstance(values.get("columns"), dict) or not values["columns"]:
        raise InputError(f"{where}: not a Pandera schema: expected a mapping with `columns` in it")
    reader = _Reader()
    table = reader.table(values)
    if reader.faults:
        raise InputError("\n".join(f"{where}: {fault}" for fault in reader.faults))
    pandera_io: Any = pandera.io.polars_io
    try:
        schema: DataFrameSchema = pandera_io.deserialize_schema(table)
    except (SchemaDefinitionError, SchemaInitError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{where}: not a valid Pandera schema: {first_line(error)}") from error
    return schema


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its class's name where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


class _Reader:
    """Turns the serialised form into what Pandera's Polars reader takes, and gathers the faults."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def table(self, values: Mapping[str, Any]) -> dict[str, Any]:
        self._known(values, _TABLE_KEYS, "")
        self._flags(values, "")
        left_out = ("index", "multiindex", "metadata", "version", "drop_invalid_rows")
        table = {key: value for key, value in values.items() if key in _TABLE_KEYS and key not in left_out}
        # pandas' own row numbers may be declared too; a dataset has none, and nothing is lost.
        named = [entry for entry in _listed(values.get("index")) if isinstance(entry, dict) and entry.get("name")]
        if values.get("multiindex") or named:
            self.faults.append("index: a dataset has no index; declare it as a column")
        if values.get("dtype") is not None:
            table["dtype"] = self._dtype(str(values["dtype"]), "dtype")
        table["checks"] = self._checks(values.get("checks"), "checks", "")
        table["columns"] = {}
        for name, column in values["columns"].items():
            if not isinstance(name, str) or not isinstance(column, (dict, type(None))):
                self.faults.append(f"columns.{name}: expected a name and a mapping, found {name!r} and {column!r}")
            else:
                table["columns"][name] = self._column(column or {}, f"columns.{name}")
        unique = values.get("unique")
        for name in [unique] if isinstance(unique, str) else _listed(unique):
            if name not in values["columns"]:
                self.faults.append(f"unique: there is no column {name!r}")
        return {**table, "schema_type": "polars_dataframe"}

    def _column(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        self._known(values, (*_COLUMN_KEYS, *_CHECKS, *_ALIASES), f"{where}.")
        self._flags(values, f"{where}.")
        left_out = ("checks", "metadata", "drop_invalid_rows")
        column = {key: value for key, value in values.items() if key in _COLUMN_KEYS and key not in left_out}
        dtype = ""
        if values.get("dtype") is not None:
            dtype = column["dtype"] = self._dtype(str(values["dtype"]), f"{where}.dtype")
        flat = {key: value for key, value in values.items() if key in (*_CHECKS, *_ALIASES)}
        checks = self._checks(values.get("checks"), f"{where}.checks", dtype) + self._checks(flat, where, dtype)
        column["checks"] = checks or None
        return column

    def _checks(self, values: Any, where: str, dtype: str) -> list[dict[str, Any]]:
        """Returns checks in Pandera's list form; each is tried, so that a fault is told with its place."""
        if not isinstance(values, (dict, list, type(None))):
            self.faults.append(f"{where}: expected a mapping or a list, found {values!r}")
            return []
        if isinstance(values, dict):
            entries = [_entry(str(name), value) for name, value in values.items()]
        else:
            entries = [entry for entry in values or [] if isinstance(entry, dict)]
            if len(entries) != len(values or []):
                self.faults.append(f"{where}: expected a list of mappings")
        return [good for entry in entries if (good := self._check(entry, where, dtype)) is not None]

    def _check(self, entry: Mapping[str, Any], where: str, dtype: str) -> dict[str, Any] | None:
        import pandera.io.polars_io
        from pandera.polars import Check

        pandera_io: Any = pandera.io.polars_io
        options = dict(entry.get("options") or {})
        name = options.pop("check_name", None)
        if name not in (*_CHECKS, *_ALIASES):
            self.faults.append(f"{where}: no built-in check {name!r}; there are {', '.join(_CHECKS)}")
            return None
        unknown = [option for option in options if option not in _OPTIONS]
        if unknown:
            self.faults.append(f"{where}.{name}: options {unknown} are not supported; there are {', '.join(_OPTIONS)}")
            return None
        try:
            stats = {key: _bound(value, dtype) for key, value in entry.items() if key != "options"}
            if not stats:
                raise ValueError("needs a value")
            if "groupby" in stats:
                raise ValueError("groupby is not supported, Pandera's Polars checks pass over it")
            pandera_io._deserialize_check_stats(getattr(Check, str(name)), {**stats, "options": dict(options)})
        except (TypeError, ValueError, KeyError, re.error) as error:
            self.faults.append(f"{where}.{name}: {first_line(error)}")
            return None
        return {**stats, "options": {**options, "check_name": name}}

    def _dtype(self, name: str, where: str) -> str:
        """Returns the Polars name of a dtype given by its pandas or its Polars name."""
        import pandera.io.polars_io

        pandera_io: Any = pandera.io.polars_io
        plain = name.removesuffix("[pyarrow]").removesuffix("[python]")
        if _PANDAS_TIME.match(plain.lower()):
            return "Datetime"
        if _PANDAS_SPAN.match(plain.lower()):
            return "Duration"
        plain = _PANDAS_NAMES.get(plain.lower(), plain)
        try:
            pandera_io._deserialize_dtype(plain)
        except TypeError:
            self.faults.append(
                f"{where}: unknown dtype {name!r}; pandas' names (int64, float64, str, category, datetime64[ns]) and "
                "Polars' (Int64, Float64, String, Date, Datetime) are known"
            )
        return plain

    def _known(self, values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        self.faults += [
            f"{where}{key}: unknown key; known here: {', '.join(known)}" for key in values if key not in known
        ]

    def _flags(self, values: Mapping[str, Any], where: str) -> None:
        self.faults += [
            f"{where}{key}: expected true or false, found {values[key]!r}"
            for key in _FLAGS
            if not isinstance(values.get(key), (bool, type(None)))
        ]
        self.faults += [
            f"{where}{key}: validation checks data and never changes it"
            for key in _CHANGES
            if values.get(key) not in (None, False) or (key == "default" and values.get(key) is not None)
        ]


def _entry(name: str, value: Any) -> dict[str, Any]:
    """Returns `name: value` in Pandera's list form; a mapping holds the check's arguments and options side by side."""
    if not isinstance(value, dict):
        return {"options": {"check_name": name}} | ({} if value is None else {"value": value})
    nested = value.get("options") or {}
    beside = {key: entry for key, entry in value.items() if key in _OPTIONS}
    stats = {key: entry for key, entry in value.items() if key not in _OPTIONS and key != "options"}
    return {**stats, "options": {**nested, **beside, "check_name": name}}


def _bound(value: Any, dtype: str) -> Any:
    """Returns a check's bound in the column's terms.

    Pandera reads times of one layout only and leaves others as text, and Polars refuses to compare text with numbers
    when the data are there; both are told here, with the schema.
    """
    if isinstance(value, list):
        return [_bound(entry, dtype) for entry in value]
    if not isinstance(value, str):
        # Polars takes no list that mixes 1 and 0.5.
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and dtype.lower().startswith("float") else value
    if dtype.lower().startswith("date"):
        return dt.datetime.fromisoformat(value)
    if re.match(r"u?int|float|decimal", dtype.lower()):
        raise ValueError(f"expected a number, found {value!r}")
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _repeated(node: Any) -> Iterator[tuple[str, int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield name, key.start_mark.line + 1
            seen.add(name)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)
