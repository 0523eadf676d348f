"""What a caller may send at most: how often, and how deep and large the values."""

import time
from collections.abc import Callable
from typing import Any

from shipway.serving.body import parse_json
from shipway.serving.limits import Refusal

# Beyond 64 bits orjson rounds whole numbers, and two ids would become one.
_GREATEST, _LEAST = float(1 << 64), -float(1 << 63)


class Rate:
    """A token bucket that holds a second's worth.

    Args:
        per_second: How many are let through a second.
        clock: Seconds, monotonic.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._clock = clock
        self._left = self._most
        self._at = clock()

    def take(self) -> float:
        """Takes one.

        Returns:
            0, or how many seconds to wait before another try.
        """
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second


def read_json(body: bytes, depth: int) -> Any:
    """Parses a body whose values the store can keep as they are.

    Args:
        body: The text.
        depth: How many levels of nesting are taken.

    Raises:
        Refusal: 400: it is not JSON (NaN and infinities are not), is nested deeper, has a number of more than 64 bits,
            or a text with NUL.
    """
    value = parse_json(body)
    _check_shape(value, depth)
    if b"\\u0000" in body and _has_nul(value):
        raise Refusal(400, "the body has a text with NUL in it")
    return value


def _check_shape(value: Any, depth: int) -> None:
    level = [value]
    for _ in range(depth + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif isinstance(one, float) and not _LEAST < one < _GREATEST:
                raise Refusal(400, "the body has a number of more than 64 bits; send it as text")
        if not below:
            return
        level = below
    raise Refusal(400, f"the body is nested deeper than {depth} levels")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(one) for key, one in value.items())
    return isinstance(value, list) and any(_has_nul(one) for one in value)
