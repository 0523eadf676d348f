"""Files by URI, on whatever fsspec knows: S3 and what speaks it (MinIO), Google Cloud Storage, and others.

Credentials are never given here. Each store's library finds them: in the environment, in a mounted file that the
environment names, or by the workload's identity. `$AWS_ENDPOINT_URL` names another S3 server, `$STORAGE_EMULATOR_HOST`
another GCS one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from shipway.errors import InputError
from shipway.lineage.storage_errors import reaching, scheme

# What filesystems call a file's content hash, or else the time of its last change; the first that is there counts.
_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "crc32c",
    "generation",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
_AT_ONCE = 8
_CONNECT_SECONDS = 5
_SILENCE_SECONDS = 20


def join(uri: str, *names: str) -> str:
    """Returns the URI of something below a folder."""
    return "/".join([uri.rstrip("/"), *names])


def locate(uri: str) -> tuple[Any, str]:
    """Returns the fsspec filesystem of a path or URI, with bounded waits and nothing remembered, and the path on it.

    `minio://` is another word for `s3://`.

    Raises:
        ImportError: The kind of URI needs a package that is not installed.
        ValueError: fsspec does not know the kind.
    """
    import fsspec

    address = uri.replace("minio://", "s3://")
    kind = scheme(address)
    options = _options(kind)
    # In a chain (`zip://a.csv::s3://bucket/b.zip`) options are given by scheme.
    filesystem, path = fsspec.core.url_to_fs(address, **({kind: options} if "::" in address else options))
    if hasattr(filesystem, "retries"):
        # s3fs tries so often on top of botocore's own attempts.
        filesystem.retries = 2
    filesystem.invalidate_cache()
    return filesystem, str(path)


def mark(filesystem: Any, path: str, info: Mapping[str, Any]) -> str:
    """Returns what tells a file's content from another: its ETag or hash, or the time of its last change."""
    found = next((info[key] for key in _MARKS if info.get(key) is not None), None)
    return str(filesystem.ukey(path) if found is None else found)


def exists(uri: str) -> bool:
    """Tells whether there is a file or folder.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    with reaching(uri):
        filesystem, path = locate(uri)
        try:
            filesystem.info(path)
        except FileNotFoundError:
            return False
        return True


def read_bytes(uri: str) -> bytes | None:
    """Returns a small file's content, or None where there is no such file.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    with reaching(uri):
        filesystem, path = locate(uri)
        try:
            return bytes(filesystem.cat_file(path))
        except FileNotFoundError:
            return None


def write_bytes(uri: str, content: bytes) -> None:
    """Writes a file; on an object store a reader sees the old bytes or the new ones.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    with reaching(uri, "write"):
        filesystem, path = locate(uri)
        _make_parent(filesystem, path)
        filesystem.pipe_file(path, content)


def names(uri: str) -> list[str]:
    """Returns the names of the files right in a folder, sorted; none where there is no such folder.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    with reaching(uri):
        filesystem, path = locate(uri)
        try:
            entries = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            _check_bucket(filesystem, path)
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in entries if entry["type"] == "file")


def remove(uri: str) -> None:
    """Removes a file or folder; nothing there is as good.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    with reaching(uri, "remove"):
        filesystem, path = locate(uri)
        try:
            filesystem.rm(path, recursive=True)
        except FileNotFoundError:
            return


def fetch_file(filesystem: Any, path: str, target: Path, name: str) -> None:
    """Copies one remote file to this machine, whole and in one state.

    Args:
        filesystem: The fsspec filesystem.
        path: The file's path on it.
        target: Where the copy goes.
        name: What to call the file in errors.

    Raises:
        InputError: It cannot be read, came short, or was changed meanwhile.
    """
    with reaching(name):
        filesystem.invalidate_cache()
        before = filesystem.info(path)
        filesystem.get_file(path, str(target))
        filesystem.invalidate_cache()
        _check_whole(filesystem, name, before, filesystem.info(path), target)


def fetch(uri: str, target: Path, sizes: Mapping[str, int] | None = None) -> None:
    """Copies a remote file, or a folder with all that is below it, to this machine.

    Args:
        uri: What to copy.
        target: Where the copy goes; its folder is made.
        sizes: The files that belong to it, relative, with their sizes in bytes ("" for the file itself): no other is
            copied, and all must be there. None copies what is there.

    Raises:
        InputError: There is no such thing, it cannot be read, came short, or was changed meanwhile.
    """
    with reaching(uri):
        filesystem, path = locate(uri)
        before = _files(filesystem, path)
        if not before:
            _check_bucket(filesystem, path)
            raise InputError(f"{uri}: no such file or folder")
        _check_sizes(uri, sizes, before)
        wanted = [name for name in before if sizes is None or name in sizes]
        for name in wanted:
            (target / name).parent.mkdir(parents=True, exist_ok=True)

        def copy(name: str) -> None:
            filesystem.get_file(before[name]["name"], str(target / name if name else target))

        _each(copy, wanted)
        filesystem.invalidate_cache()
        after = _files(filesystem, path)
        for name in wanted:
            place = join(uri, name) if name else uri
            if name not in after:
                raise InputError(f"{place}: it was removed while it was read")
            _check_whole(filesystem, place, before[name], after[name], target / name if name else target)


def upload(source: Path, uri: str) -> None:
    """Copies a file, or a folder with all that is below it, to a URI; each file whole or not at all.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    with reaching(uri, "write"):
        filesystem, path = locate(uri)

        def copy(name: str) -> None:
            place = f"{path}/{name}" if name else path
            _make_parent(filesystem, place)
            filesystem.put_file(str(source / name if name else source), place)

        _each(copy, local_sizes(source))


def local_sizes(source: Path) -> dict[str, int]:
    """Returns the files below a folder, relative, with their sizes in bytes; "" for a file itself."""
    if source.is_file():
        return {"": source.stat().st_size}
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return {path.relative_to(source).as_posix(): path.stat().st_size for path in files}


def _options(kind: str) -> dict[str, Any]:
    """Returns what a store's library is told, but for what fsspec's own configuration says of it."""
    import logging

    from fsspec.config import conf

    options: dict[str, Any] = {}
    if kind == "s3":
        attempts = {"mode": "standard", "total_max_attempts": 3}
        bounds = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _SILENCE_SECONDS, "retries": attempts}
        options = {"config_kwargs": bounds}
    elif kind in ("gs", "gcs"):
        # Else gcsfs asks a second Google service about each bucket, whatever STORAGE_EMULATOR_HOST says.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        # It logs a traceback for each failure that is told of here in one line.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        from aiohttp import ClientTimeout

        bounded = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        # Unasked, gcsfs would go on without credentials, or with pickled ones from the home folder.
        token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
        options = {"requests_timeout": bounded, "token": token}
    return {name: value for name, value in options.items() if name not in conf.get(kind, {})}


def _make_parent(filesystem: Any, path: str) -> None:
    """Makes a file's folder on a disk. A store has no folders, and s3fs would make a bucket that is misspelt."""
    if "file" in filesystem.protocol:
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)


def _files(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    """Returns a file as "", or a folder's files by their relative paths; none where there is nothing.

    Raises:
        InputError: A name would lead out of the folder.
    """
    root = path.rstrip("/")
    found: dict[str, dict[str, Any]] = {}
    try:
        listed = filesystem.find(root, detail=True)
    except FileNotFoundError:
        return {}
    for name, info in listed.items():
        # Some tools make empty objects to stand for folders.
        if name.endswith("/") or info["type"] != "file":
            continue
        relative = "" if name == root else name.removeprefix(root + "/")
        if ".." in PurePosixPath(relative).parts or relative.startswith("/"):
            raise InputError(f"{filesystem.unstrip_protocol(name)}: its name leads out of the folder")
        found[relative] = info
    return found if "" not in found or len(found) == 1 else {name: info for name, info in found.items() if name}


def _check_bucket(filesystem: Any, path: str) -> None:
    """Raises FileNotFoundError where it is the bucket that is missing; a store lists nothing in either case."""
    bucket = path.partition("/")[0]
    if bucket and not path.startswith("/") and not filesystem.exists(bucket):
        raise FileNotFoundError("no such bucket")


def _check_sizes(uri: str, sizes: Mapping[str, int] | None, found: Mapping[str, Mapping[str, Any]]) -> None:
    for name, size in (sizes or {}).items():
        place = join(uri, name) if name else uri
        if name not in found:
            raise InputError(f"{place}: missing; it was removed, or its upload broke off: run the step before again")
        if int(found[name]["size"]) != size:
            raise InputError(
                f"{place}: {found[name]['size']} bytes, expected {size}; it was changed, or its upload broke off: "
                "run the step before again"
            )


def _check_whole(filesystem: Any, name: str, before: Mapping[str, Any], after: Mapping[str, Any], target: Path) -> None:
    marks = [mark(filesystem, info["name"], info) for info in (before, after)]
    if marks[0] != marks[1] or before.get("size") != after.get("size"):
        raise InputError(f"{name}: it was changed while it was read; run the step again once it stays")
    size, found = before.get("size"), target.stat().st_size
    # What a server compresses on the way has another size here.
    compressed = before.get("contentEncoding") or scheme(name) in ("http", "https")
    if size is not None and int(size) != found and not compressed:
        raise InputError(f"{name}: {found} of its {size} bytes came; run the step again")


def _each(copy: Callable[[str], None], items: Iterable[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(copy, items):
            pass
