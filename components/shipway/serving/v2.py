"""The Open Inference Protocol, V2: one tensor a column in, `prediction` and `label` tensors out.

Request: `{"id": "...", "inputs": [{"name": "column", "shape": [n], "datatype": "FP64", "data": [...]}, ...]}`. The
shape is `[n]` or `[n, 1]`, `data` flat or nested likewise, null where the column is nullable. A number takes any FP,
INT or UINT datatype, a boolean BOOL, a category BYTES (JSON text).

Response: `prediction` FP64 `[n, classes]` (probabilities in the order of the classes) or `[n, 1]` (values), and,
unless the task is regression, `label` `[n]` in the classes' own datatype: BYTES, INT64 or BOOL. The binary
tensor extension is not spoken.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from shipway.serving.limits import Limits, Refusal
from shipway.serving.model_slot import Array, ServedInfo
from shipway.serving.v1 import check_rows

_FLOATS = ("FP64", "FP32", "FP16", "BF16")
_INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_TAKES = {"number": (*_FLOATS, *_INTEGERS), "boolean": ("BOOL",), "category": ("BYTES",)}
_SAYS = {"number": "FP64", "boolean": "BOOL", "category": "BYTES"}
_REQUEST_KEYS = {"id", "inputs", "outputs", "parameters"}


def metadata(name: str, versions: Sequence[str], info: ServedInfo) -> dict[str, Any]:
    """Returns a model's metadata: its inputs and outputs with datatypes and shapes.

    Args:
        name: The model's name.
        versions: The versions that are served.
        info: What the package of one of them says of itself.
    """
    return {
        "name": name,
        "versions": list(versions),
        "platform": "shipway_onnx" if info.onnx else "shipway_native",
        "inputs": [{"name": column.name, "datatype": _SAYS[column.kind], "shape": [-1, 1]} for column in info.inputs],
        "outputs": [
            {"name": "prediction", "datatype": "FP64", "shape": [-1, len(info.classes) or 1]},
            *([{"name": "label", "datatype": _label_type(info), "shape": [-1]}] if info.classes else []),
        ],
    }


class InferRequest:
    """A request taken apart.

    Attributes:
        rows: Its rows, as V1 would have them.
        id: The caller's id, echoed in the response; None where there is none.
        outputs: The outputs asked for, in order.
    """

    __slots__ = ("id", "outputs", "rows")

    def __init__(self, rows: list[dict[str, Any]], request_id: str | None, outputs: list[str]) -> None:
        self.rows = rows
        self.id = request_id
        self.outputs = outputs


def read_request(payload: Any, info: ServedInfo, limits: Limits) -> InferRequest:
    """Takes a request apart.

    Raises:
        Refusal: Its shape, a tensor's shape, datatype or length is wrong, or there are no rows, or too many.
    """
    if not isinstance(payload, dict) or not isinstance(payload.get("inputs"), list):
        raise Refusal(400, 'expected a JSON object {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    if unknown := payload.keys() - _REQUEST_KEYS:
        raise Refusal(400, f"unknown field {', '.join(sorted(map(repr, unknown)))} beside 'inputs'")
    request_id = payload.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise Refusal(400, "'id' must be text")
    outputs = _outputs(payload.get("outputs"), info)
    tensors = payload["inputs"]
    if not tensors:
        raise Refusal(400, "'inputs' is empty; expected a tensor for each of the model's columns")
    kinds = {column.name: column.kind for column in info.inputs}
    columns: dict[str, list[Any]] = {}
    count = -1
    for tensor in tensors:
        name, length, data = _tensor(tensor, kinds, limits)
        if name in columns:
            raise Refusal(400, f"input {name!r} is given twice")
        if count not in (-1, length):
            raise Refusal(400, f"input {name!r} has {length} rows, the inputs before it {count}")
        columns[name], count = data, length
    if missing := [repr(name) for name in kinds if name not in columns]:
        raise Refusal(400, f"input {', '.join(missing)} is missing")
    names = list(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return InferRequest(rows, request_id, outputs)


def write_response(name: str, version: str, info: ServedInfo, request: InferRequest, prediction: Array) -> bytes:
    """Returns the response body for (rows, classes) probabilities or (rows, 1) values."""
    count, width = prediction.shape
    tensors = []
    for output in request.outputs:
        if output == "prediction":
            data: list[Any] = prediction.ravel().tolist()
            tensors.append({"name": output, "datatype": "FP64", "shape": [count, width], "data": data})
        else:
            classes = info.classes
            best = prediction[:, 1] >= 0.5 if info.task == "binary" else prediction.argmax(axis=1)
            data = [classes[at] for at in best.tolist()]
            tensors.append({"name": output, "datatype": _label_type(info), "shape": [count], "data": data})
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": tensors}
    if request.id is not None:
        answer["id"] = request.id
    return orjson.dumps(answer)


def _label_type(info: ServedInfo) -> str:
    if all(isinstance(value, bool) for value in info.classes):
        return "BOOL"
    return "INT64" if all(isinstance(value, int) for value in info.classes) else "BYTES"


def _outputs(wanted: Any, info: ServedInfo) -> list[str]:
    offered = ["prediction", "label"] if info.classes else ["prediction"]
    if wanted is None:
        return offered
    names = (
        [entry.get("name") if isinstance(entry, dict) else None for entry in wanted] if isinstance(wanted, list) else []
    )
    if not names or not all(name in offered for name in names):
        raise Refusal(400, f"'outputs' must be a list of objects whose names are among {', '.join(offered)}")
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _tensor(tensor: Any, kinds: dict[str, Any], limits: Limits) -> tuple[str, int, list[Any]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise Refusal(400, "every input must be an object with a name, shape, datatype and data")
    name = tensor["name"]
    kind = kinds.get(name)
    if kind is None:
        raise Refusal(400, f"unknown input {name!r}; the model takes {', '.join(kinds)}")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(shape) not in (1, 2)
        or shape[1:] not in ([], [1])
    ):
        raise Refusal(400, f"input {name!r}: 'shape' must be [n] or [n, 1]")
    length = shape[0]
    datatype = tensor.get("datatype")
    if datatype not in _TAKES[kind]:
        raise Refusal(400, f"input {name!r}: 'datatype' must be {_choices(_TAKES[kind])}")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise Refusal(400, f"input {name!r}: 'data' must be a list")
    if length == 0:
        raise Refusal(400, f"input {name!r} is empty; expected at least one row")
    check_rows(length, limits)
    if len(data) != length:
        raise Refusal(400, f"input {name!r}: 'shape' says {length} rows, 'data' has {len(data)}")
    if isinstance(data[0], list):
        if not all(isinstance(entry, list) and len(entry) == 1 for entry in data):
            raise Refusal(400, f"input {name!r}: 'data' must be flat, or nested as [[value], ...]")
        data = [entry[0] for entry in data]
    if datatype in _INTEGERS and not all(type(value) is int or value is None for value in data):
        raise Refusal(400, f"input {name!r}: the datatype is {datatype}, but 'data' holds something else than integers")
    return name, length, data


def _choices(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
