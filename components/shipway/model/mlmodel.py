"""MLflow's description of a model package, the file `MLmodel`."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.lineage.digests import digest_tree
from shipway.lineage.files import write_text
from shipway.model.signature import InputColumn

if TYPE_CHECKING:
    import polars as pl


def write_mlmodel(folder: Path, columns: Sequence[InputColumn], outputs: int, golden: pl.DataFrame) -> None:
    """Writes MLflow's description of a package by hand: importing MLflow takes a second, and its own has random ids.

    Args:
        folder: The package's folder, whole but for this.
        columns: The raw columns it takes.
        outputs: How many columns a prediction has.
        golden: Raw rows, whose types the columns have.
    """
    inputs = [{"type": _mlflow_type(column, golden), "name": column.name, "required": True} for column in columns]
    tensors = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, outputs]}}]
    lines = [
        "flavors:",
        "  python_function:",
        "    loader_module: shipway.model.pyfunc",
        # A patch of Python makes no other model: laptop and image may differ in it.
        f"    python_version: '{'.'.join(platform.python_version_tuple()[:2])}'",
        # From the content, so that the same model has the same one.
        f"model_uuid: {digest_tree(folder).removeprefix('sha256:')[:32]}",
        "signature:",
        f"  inputs: {_quoted(json.dumps(inputs))}",
        f"  outputs: {_quoted(json.dumps(tensors))}",
        "  params: null",
    ]
    write_text(folder / "MLmodel", "\n".join(lines) + "\n")


def _mlflow_type(column: InputColumn, golden: pl.DataFrame) -> str:
    """Returns MLflow's type of a column, as pandas will hold it: MLflow takes no int64 for a double nor the reverse."""
    if column.kind != "number":
        return "string" if column.kind == "category" else "boolean"
    if not golden.schema[column.name].is_integer():
        return "double"
    # An integer column with nulls is float64 in pandas, one without is int64.
    return "any" if column.nullable else "long"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
