"""KServe's V1 protocol (also Vertex's): rows in, one JSON value a row out.

Request: `{"instances": [{"column": value, ...}, ...]}`; `parameters` and `signature_name` beside it are let pass.

Response: `{"predictions": [...]}`, an entry a row by the model's task:

- binary: `{"label": "late", "probability": 0.81, "probabilities": {"on time": 0.19, "late": 0.81}}`, where
  `probability` is that of the positive class, and `label` is the positive class from 0.5 upwards;
- multiclass: the same with the most probable class as `label` and its `probability`;
- regression: `{"value": 12.5}`.

A class that is no text keeps its JSON type as `label` (`true`, `3`) and is named by its JSON text in `probabilities`.
"""

from typing import Any

import numpy as np
import orjson

from shipway.serving.limits import Limits, Refusal
from shipway.serving.model_slot import Array, ServedInfo

_KEYS = {"instances", "parameters", "signature_name"}


def read_rows(payload: Any, limits: Limits) -> list[Any]:
    """Returns a request's rows; whether each fits the model is the package's business.

    Raises:
        Refusal: The payload's shape is wrong, or there are no rows, or too many.
    """
    if not isinstance(payload, dict):
        raise Refusal(400, 'expected a JSON object {"instances": [...]}')
    rows = payload.get("instances")
    if not isinstance(rows, list):
        found = "nothing" if "instances" not in payload else "another type"
        raise Refusal(400, f'"instances" must be a list of objects, found {found}')
    if len(payload) > 1 and not payload.keys() <= _KEYS:
        unknown = ", ".join(sorted(repr(key) for key in payload.keys() - _KEYS))
        raise Refusal(400, f'unknown field {unknown}; the request is {{"instances": [...]}}')
    if not rows:
        raise Refusal(400, '"instances" is empty; expected at least one row')
    check_rows(len(rows), limits)
    return rows


def check_rows(count: int, limits: Limits) -> None:
    """Refuses a request of too many rows.

    Raises:
        Refusal: With status 413.
    """
    if count > limits.rows:
        raise Refusal(413, f"{count} rows in one request; at most {limits.rows} are taken")


def class_text(value: str | int | bool) -> str:
    """Returns how a class is named as a JSON key."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def write_predictions(info: ServedInfo, prediction: Array) -> bytes:
    """Returns the response body for (rows, classes) probabilities or (rows, 1) values."""
    rows: list[list[float]] = prediction.tolist()
    classes = info.classes
    answers: list[dict[str, Any]]
    if not classes:
        answers = [{"value": row[0]} for row in rows]
    elif info.task == "binary":
        negative, positive = class_text(classes[0]), class_text(classes[1])
        answers = [
            {"label": classes[p >= 0.5], "probability": p, "probabilities": {negative: q, positive: p}} for q, p in rows
        ]
    else:
        names = [class_text(value) for value in classes]
        best = prediction.argmax(axis=1).tolist()
        answers = [
            {"label": classes[at], "probability": row[at], "probabilities": dict(zip(names, row, strict=True))}
            for row, at in zip(rows, best, strict=True)
        ]
    return orjson.dumps({"predictions": answers})


def read_predictions(info: ServedInfo, body: bytes) -> Array:
    """Returns the prediction that another server's response body says; the reverse of `write_predictions`.

    Raises:
        ValueError: It is no such response of a model with these classes.
    """
    try:
        answers = orjson.loads(body)["predictions"]
        if not info.classes:
            rows = [[answer["value"]] for answer in answers]
        else:
            names = [class_text(value) for value in info.classes]
            rows = [[answer["probabilities"][name] for name in names] for answer in answers]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(info.classes) or 1)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no V1 response of such a model: {error}") from error
