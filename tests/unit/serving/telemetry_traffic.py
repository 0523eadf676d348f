"""Requests for tests of telemetry: models of each task, rows with nulls, and a clock that a test turns."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from shipway.model.signature import InputColumn

INPUTS = [
    InputColumn(name="delay", kind="number", nullable=True),
    InputColumn(name="distance", kind="number", nullable=False),
    InputColumn(name="holiday", kind="boolean", nullable=True),
    InputColumn(name="carrier", kind="category", nullable=True),
]
CLASSES: dict[str, list[Any]] = {"binary": [False, True], "multiclass": ["a", "b", "c"], "regression": []}


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def info(task: str = "binary") -> Any:
    return SimpleNamespace(name="flights", task=task, classes=CLASSES[task], inputs=INPUTS, onnx=True)


def rows(draw: np.random.Generator, count: int) -> list[dict[str, Any]]:
    return [
        {
            "delay": None if draw.random() < 0.3 else float(draw.normal(-3, 20)),
            "distance": int(draw.integers(50, 5000)),
            "holiday": [True, False, None][draw.integers(0, 3)],
            "carrier": ["AA", "é \"'", None][draw.integers(0, 3)],
        }
        for _ in range(count)
    ]


def prediction(draw: np.random.Generator, count: int, task: str = "binary") -> np.ndarray:
    if task == "regression":
        return draw.normal(10, 20, (count, 1)).astype(np.float32)
    return draw.dirichlet(np.ones(len(CLASSES[task])), count).astype(np.float32)
