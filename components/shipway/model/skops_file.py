"""Scikit-learn objects in a file without pickle, the same bytes for the same object.

skops names objects by their memory address, files inside its archive by address or random id, and stamps them with
the time; sets come in hash order; arrays of records have whatever was in memory between their fields. `dump` rewrites
all of that: ids count up in the order of the tree, entries have one fixed date, sets are sorted, gaps are zero.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import write_bytes

_LIBRARIES = ("sklearn", "numpy", "scipy")
_SCHEMA = "schema.json"


@cache
def _skops_io() -> Any:
    """Imports skops.io without its walk through every module of scikit-learn.

    That walk, for a list of types to trust, takes three seconds and imports torch where it is installed. The list is
    not needed: `load` trusts types by their module.
    """
    import sklearn.utils

    walk = sklearn.utils.all_estimators
    sklearn.utils.all_estimators = list
    try:
        import skops.io
    finally:
        sklearn.utils.all_estimators = walk
    return skops.io


def dump(obj: Any, path: str | Path) -> None:
    """Writes an object (an estimator or transformer) to a `.skops` file with deterministic bytes.

    Raises:
        InputError: The object holds something that skops cannot write.
    """
    skops_io = _skops_io()
    try:
        raw = skops_io.dumps(obj)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{type(obj).__name__} cannot be saved without pickle: {error}") from error
    write_bytes(path, _normalised(raw))


def load(path: str | Path, trusted_modules: Iterable[str] = ()) -> Any:
    """Reads an object written by `dump`.

    Args:
        path: The file.
        trusted_modules: Modules, besides sklearn, numpy and scipy, whose types may be built: the user's own.

    Raises:
        ShipwayError: The file is missing, damaged, or holds a type from any other module.
    """
    skops_io = _skops_io()
    from skops.io.exceptions import UntrustedTypesFoundException

    file = Path(path)
    if not file.is_file():
        raise ShipwayError(f"{file}: no such file")
    try:
        unknown = skops_io.get_untrusted_types(file=file)
        trusted = [name for name in unknown if _is_trusted(name, trusted_modules)]
        refused = sorted(set(unknown) - set(trusted))
        if refused:
            known = ", ".join((*_LIBRARIES, *trusted_modules))
            raise ShipwayError(f"{file}: holds {', '.join(refused)}; only types of {known} are built")
        return skops_io.load(file, trusted=trusted)
    except UntrustedTypesFoundException as error:
        raise ShipwayError(f"{file}: {str(error).splitlines()[0]}") from error
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
        IndexError,
    ) as error:
        raise ShipwayError(f"{file}: damaged, or written for other library versions: {error}") from error


def _is_trusted(type_name: str, modules: Iterable[str]) -> bool:
    # HistGradientBoosting's categories need it; the function inside is told of, and judged, by itself.
    if type_name == "functools.partial":
        return True
    return any(type_name.startswith(f"{module}.") for module in (*_LIBRARIES, *modules))


def _normalised(raw: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        schema = json.loads(archive.read(_SCHEMA))
        contents = {name: archive.read(name) for name in archive.namelist() if name != _SCHEMA}
    _sort_sets(schema)
    files: dict[str, str] = {}
    _renumber(schema, {}, files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        # Compact, because a big forest's schema is mostly white space otherwise.
        _write(archive, _SCHEMA, json.dumps(schema, separators=(",", ":")).encode())
        for old, new in files.items():
            _write(archive, new, _without_gaps(contents[old]) if new.endswith(".npy") else contents[old])
    return buffer.getvalue()


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=6)


def _without_gaps(content: bytes) -> bytes:
    """Returns an array's file with zeros in the padding of its records, if it has records."""
    import numpy as np

    if content[:6] != b"\x93NUMPY" or b"[" not in content[:128]:
        return content
    values = np.load(io.BytesIO(content), allow_pickle=False)
    if values.dtype.names is None:
        return content
    clean = np.zeros(values.shape, dtype=values.dtype)
    for field in values.dtype.names:
        clean[field] = values[field]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _sort_sets(node: Any) -> None:
    if isinstance(node, dict):
        for value in node.values():
            _sort_sets(value)
        if node.get("__loader__") == "SetNode":
            node["content"].sort(key=_without_ids)
    elif isinstance(node, list):
        for value in node:
            _sort_sets(value)


def _without_ids(node: Any) -> str:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(entry) for key, entry in value.items() if key not in ("__id__", "file")}
        return [strip(entry) for entry in value] if isinstance(value, list) else value

    return json.dumps(strip(node), sort_keys=True)


def _renumber(node: Any, ids: dict[int, int], files: dict[str, str]) -> None:
    """Renames ids and files in the order in which the tree is walked, in place."""
    if isinstance(node, list):
        for value in node:
            _renumber(value, ids, files)
        return
    if not isinstance(node, dict):
        return
    if "__loader__" in node:
        identity = node.pop("__id__", None)
        # Plain values need no identity, and whether two equal ones are one object is the interpreter's whim.
        if isinstance(identity, int) and node["__loader__"] not in ("JsonNode", "TypeNode"):
            node["__id__"] = ids.setdefault(identity, len(ids) + 1)
        file = node.get("file")
        if isinstance(file, str):
            node["file"] = files.setdefault(file, f"{len(files):05d}{Path(file).suffix}")
    for value in node.values():
        _renumber(value, ids, files)
