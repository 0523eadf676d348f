"""What a prediction's row looks like: the output's Arrow schema, and the raw columns it is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from shipway.errors import InputError
from shipway.lineage.batches import OWN_COLUMNS
from shipway.model.profile import class_name

if TYPE_CHECKING:
    from shipway.model.package import PackageInfo
    from shipway.model.signature import InputColumn

# Where a server draws the line too.
_THRESHOLD = 0.5


def output_schema(rows: pa.Schema, carried: Sequence[str], task: str) -> pa.Schema:
    """Returns the columns of a batch's predictions; see `shipway.lineage.batches`.

    Args:
        rows: The batch's columns.
        carried: Those that the predictions carry: the key first.
        task: binary, multiclass or regression.

    Raises:
        InputError: A carried column is missing, or has a name of the output's own.
    """
    missing = [name for name in carried if name not in rows.names]
    if missing:
        raise InputError(
            f"the rows have no column {', '.join(map(repr, missing))}, which data.key or inference.columns names; "
            f"they have {', '.join(rows.names)}"
        )
    taken = [name for name in carried if name in OWN_COLUMNS]
    if taken:
        raise InputError(
            f"data.key or inference.columns names {', '.join(map(repr, taken))}, which the predictions have a column "
            "of their own for; let the loader give the column another name"
        )
    fields = [pa.field("row", pa.int64(), nullable=False)]
    fields += [pa.field(name, _plain(rows.field(name).type)) for name in carried]
    fields += [pa.field("prediction", pa.float64(), nullable=False), pa.field("label", pa.string())]
    if task == "multiclass":
        fields.append(pa.field("outputs", pa.list_(pa.float64()), nullable=False))
    return pa.schema([*fields, *(pa.field(name, pa.string(), nullable=False) for name in ("version", "run_id"))])


def require_slices(slices: Sequence[str], columns: Sequence[str]) -> None:
    """Checks that the columns to count by are there.

    Raises:
        InputError: One is missing.
    """
    missing = [name for name in slices if name not in columns]
    if missing:
        raise InputError(
            f"inference.slices: the rows have no column {', '.join(map(repr, missing))}; they have {', '.join(columns)}"
        )


def output_table(
    schema: pa.Schema,
    info: PackageInfo,
    numbers: npt.NDArray[np.int64],
    carried: pa.RecordBatch,
    prediction: Labelled,
    version: str,
    run_id: str,
) -> pa.Table:
    """Returns the predictions of some rows.

    Args:
        schema: As `output_schema` returned it.
        info: The package's.
        numbers: The rows' numbers in the batch; shape (rows,).
        carried: The columns that the predictions carry.
        prediction: What the model says of them.
        version: The registry's version.
        run_id: The run that began the batch.
    """
    count = len(numbers)
    columns: dict[str, Any] = {name: carried.column(name) for name in carried.schema.names}
    columns |= {"row": pa.array(numbers), "prediction": pa.array(prediction.values), "label": prediction.labels}
    if info.task == "multiclass":
        offsets = np.arange(count + 1, dtype=np.int32) * prediction.outputs.shape[1]
        columns["outputs"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(prediction.outputs.reshape(-1)))
    columns |= {"version": pa.repeat(version, count), "run_id": pa.repeat(run_id, count)}
    return pa.Table.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)


@dataclass(frozen=True)
class Labelled:
    """Predictions as the output has them.

    Attributes:
        values: The column `prediction`, shape (rows,).
        labels: The column `label`, (rows,).
        outputs: What the model gave, shape (rows, classes) or (rows, 1).
    """

    values: npt.NDArray[np.float64]
    labels: pa.StringArray | pa.NullArray
    outputs: npt.NDArray[np.float64]


def labelled(info: PackageInfo, prediction: npt.NDArray[np.float64]) -> Labelled:
    """Returns predictions as the output has them.

    Args:
        info: The package's.
        prediction: Shape (rows, classes) or (rows, 1).
    """
    if not info.classes:
        return Labelled(np.ascontiguousarray(prediction[:, 0]), pa.nulls(len(prediction), pa.string()), prediction)
    names = pa.array([class_name(value) for value in info.classes])
    if info.task == "binary":
        positive = np.ascontiguousarray(prediction[:, 1])
        return Labelled(positive, names.take(pa.array((positive >= _THRESHOLD).astype(np.int8))), prediction)
    best = prediction.argmax(axis=1)
    return Labelled(prediction[np.arange(len(best)), best], names.take(pa.array(best)), prediction)


def as_inputs(frame: pl.DataFrame, inputs: Sequence[InputColumn]) -> pl.DataFrame:
    """Returns raw rows with numbers and booleans read from text, as a CSV with one bad cell gives a whole column.

    Raises:
        InputError: A text is no such value.
    """
    changed = []
    for column in inputs:
        if column.kind == "category" or frame.schema[column.name] != pl.String:
            continue
        text = frame[column.name].str.strip_chars()
        if column.kind == "number":
            read = text.cast(pl.Float64, strict=False)
        else:
            lower = text.str.to_lowercase()
            read = lower.replace_strict(["true", "false"], [True, False], default=None, return_dtype=pl.Boolean)
        broken = text.filter(read.is_null() & text.is_not_null())
        if len(broken):
            raise InputError(
                f"column {column.name!r}: expected a {column.kind}, found {broken[0]!r} in a row that validation let "
                "pass; give the column its dtype in the schema"
            )
        changed.append(read)
    return frame.with_columns(changed) if changed else frame


def _plain(dtype: pa.DataType) -> pa.DataType:
    """Returns the narrowest name of an Arrow type: Polars writes text as large text."""
    return pa.string() if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype) else dtype
