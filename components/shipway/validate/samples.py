"""Offending values as short text, and sentences about them."""

from collections.abc import Iterable
from typing import Any

SAMPLES = 5
_LENGTH = 80


def shown(value: Any) -> str:
    """Returns a value as a person would want to see it: text in quotes, nothing longer than a line."""
    text = repr(value) if isinstance(value, str) else "null" if value is None else str(value)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."


def samples(values: Iterable[Any]) -> list[str]:
    """Returns the first few distinct values as text."""
    distinct: dict[str, None] = {}
    for value in values:
        distinct[shown(value)] = None
        if len(distinct) == SAMPLES:
            break
    return list(distinct)


def counted(count: int, one: str = "row", many: str = "rows") -> str:
    """Returns `1 row`, `1,234 rows`."""
    return f"{count:,} {one if count == 1 else many}"


def as_in(values: list[str]) -> str:
    """Returns `, as -1, 7` for samples, and nothing without any."""
    return f", as {', '.join(values)}" if values else ""
