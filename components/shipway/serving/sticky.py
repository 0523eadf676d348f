"""The key that a caller is known by: requests with equal keys get one revision, and are logged under it.

`header:NAME` is a request header; `parameter:NAME` an entry of the body's `parameters` (V1, V2 and Vertex alike);
`column:NAME` a column of the request's first row. A request without it has the key "".
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from shipway.errors import InputError

_SETTING = re.compile(r"(header|parameter|column):([A-Za-z0-9_.-]{1,128})")
_MOST = 256


class Sticky:
    """Finds the key of a request.

    Args:
        setting: See above.

    Raises:
        InputError: The setting is malformed.
    """

    def __init__(self, setting: str) -> None:
        found = _SETTING.fullmatch(setting)
        if found is None:
            raise InputError(f"--sticky: expected header:NAME, parameter:NAME or column:NAME, found {setting!r}")
        self._kind = cast(Literal["header", "parameter", "column"], found[1])
        self._name = found[2]
        self._header = found[2].lower().encode()

    def key(self, headers: Sequence[tuple[bytes, bytes]], payload: Any) -> str:
        """Returns a request's key; "" where it has none.

        Args:
            headers: The request's headers, names in lower case.
            payload: The request's body, whatever it is.
        """
        value: Any = None
        if self._kind == "header":
            value = next((text.decode("latin-1") for name, text in headers if name == self._header), None)
        elif isinstance(payload, dict):
            value = self._parameter(payload) if self._kind == "parameter" else self._cell(payload)
        if value is None or isinstance(value, (list, dict)):
            return ""
        return str(value)[:_MOST]

    def _parameter(self, payload: dict[str, Any]) -> Any:
        parameters = payload.get("parameters")
        return parameters.get(self._name) if isinstance(parameters, dict) else None

    def _cell(self, payload: dict[str, Any]) -> Any:
        rows = payload.get("instances")
        if isinstance(rows, list):
            return rows[0].get(self._name) if rows and isinstance(rows[0], dict) else None
        tensors = payload.get("inputs")
        for tensor in tensors if isinstance(tensors, list) else []:
            if isinstance(tensor, dict) and tensor.get("name") == self._name:
                return _first(tensor.get("data"))
        return None


def _first(data: Any) -> Any:
    while isinstance(data, list):
        data = data[0] if data else None
    return data
