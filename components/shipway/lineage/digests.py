"""Content digests, all written `sha256:<64 hex digits>`."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def digest_bytes(content: bytes) -> str:
    """Returns the digest of `content`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_json(value: Any) -> str:
    """Returns the digest of a JSON value, independent of key order and white space.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON cannot say.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return digest_bytes(text.encode())


def digest_file(path: str | Path) -> str:
    """Returns the digest of a file's bytes, read in chunks."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def digest_tree(root: str | Path, exclude: Iterable[str] = ()) -> str:
    """Returns the digest of a folder: every file's relative path and bytes, in path order.

    Compiled Python (`__pycache__`) never counts.

    Args:
        root: The folder.
        exclude: Relative paths (POSIX form) to leave out.
    """
    base = Path(root)
    left_out = set(exclude)
    files = sorted(
        (path.relative_to(base).as_posix(), path)
        for path in base.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return digest_json([[name, digest_file(path)] for name, path in files if name not in left_out])
