"""Values that are safe to hand to KFP as artifact metadata and metrics."""

import math
from collections.abc import Mapping
from typing import Any


def safe_value(value: Any) -> Any:
    """Returns `value` as plain JSON: NumPy scalars unwrapped, None, NaN and infinities dropped from containers.

    Returns None where nothing remains.
    """
    if hasattr(value, "item") and not isinstance(value, (str, bytes)) and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, Mapping):
        pairs = {str(key): safe_value(entry) for key, entry in value.items()}
        return {key: entry for key, entry in pairs.items() if entry is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [entry for entry in map(safe_value, value) if entry is not None]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def safe_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `values` without None, NaN and infinities.

    KFP's backend refuses None in metadata, and a NaN or infinity there kills the run before its exit handler
    (measured on kfp 2.17).
    """
    cleaned: dict[str, Any] = safe_value(values)
    return cleaned
