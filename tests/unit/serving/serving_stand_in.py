"""A server process around a tiny stand-in of a package, for behaviour that no real package shows on demand.

A stand-in's folder holds `package.json`: task, classes, inputs and `mode`, which is `ok`, `slow` (a second a
prediction), `fault` (raises what nobody expects), `infinite`, `misshapen` or `dies-loading`. Some misbehave for one row
only, and so come through their golden rows: `hang` sleeps for ever, `die` ends its process, `error` raises, `picky`
refuses the row.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from shipway.errors import DigestMismatchError
from shipway.lineage.digests import digest_tree
from shipway.model.signature import InputColumn, RequestError, RowReader

INPUTS = [
    {"name": "delay", "kind": "number", "nullable": True},
    {"name": "holiday", "kind": "boolean", "nullable": True},
    {"name": "carrier", "kind": "category", "nullable": False},
]
GOLDEN = [{"delay": 1.5, "holiday": True, "carrier": "AA"}, {"delay": None, "holiday": None, "carrier": "B'6"}]


class StandIn:
    def __init__(self, path: Path, digest: str | None) -> None:
        self.digest = digest_tree(path)
        if digest is not None and digest != self.digest:
            raise DigestMismatchError(f"{path}: the package's digest is {self.digest}, expected {digest}")
        document = json.loads((path / "package.json").read_text())
        self.mode = document["mode"]
        if self.mode == "dies-loading":
            os._exit(3)
        self.shift = document["shift"]
        self.path = path
        self.info = SimpleNamespace(
            name="flights",
            task=document["task"],
            classes=document["classes"],
            inputs=[InputColumn(**entry) for entry in INPUTS],
            onnx=True,
        )

    def columns_from_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        if self.mode == "picky" and len(rows) == 1:
            raise RequestError("row 0: feature 'weather' is missing")
        return RowReader(self.info.inputs).read(rows)

    def predict_columns(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        delay = np.nan_to_num(columns["delay"][:, 0])
        if self.mode == "slow" and len(delay) > 2:
            time.sleep(1.0)
        if self.mode == "hang" and len(delay) == 1:
            time.sleep(3600)
        if self.mode == "die" and len(delay) == 1:
            os._exit(9)
        if self.mode == "error" and len(delay) == 1:
            raise KeyError("secret detail")
        if self.mode == "fault" and "boom" in columns["carrier"]:
            raise KeyError("secret detail")
        if self.mode == "infinite":
            delay = np.where(delay > 1e300, np.nan, delay)
        values = delay[:, None] + self.shift
        if not self.info.classes or self.mode == "misshapen":
            return values
        with np.errstate(over="ignore"):
            p = 1 / (1 + np.exp(-values[:, 0]))
        if len(self.info.classes) == 2:
            return np.stack([1 - p, p], axis=1)
        rest = len(self.info.classes) - 1
        return np.stack([p, *[(1 - p) / rest] * rest], axis=1)

    def golden(self) -> Any:
        # As much of a frame as the server needs; Polars would double the time it takes to start.
        return SimpleNamespace(iter_rows=lambda named: iter(GOLDEN))  # noqa: ARG005


def write_stand_in(
    path: Path, task: str = "binary", classes: Sequence[Any] = ("no", "late"), mode: str = "ok", shift: float = 0.0
) -> str:
    """Writes a stand-in's folder and returns its digest."""
    path.mkdir(parents=True, exist_ok=True)
    document = {"name": "flights", "task": task, "classes": list(classes), "mode": mode, "shift": shift}
    (path / "package.json").write_text(json.dumps(document))
    return digest_tree(path)


if __name__ == "__main__":
    from shipway.serving.server import main

    sys.exit(main(loader=StandIn))
