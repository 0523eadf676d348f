"""Finding the files that a URI or glob names, on whatever filesystem fsspec knows, and fetching remote ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fsspec.implementations.local import LocalFileSystem

from shipway.errors import InputError
from shipway.lineage.project import project_folder
from shipway.lineage.storage import fetch_file, locate
from shipway.lineage.storage_errors import reaching
from shipway.spec import DataSection

Format = Literal["parquet", "csv"]

_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.bz2": "csv",
    ".csv.zst": "csv",
}


@dataclass(frozen=True)
class SourceFile:
    """One file of the source.

    Attributes:
        name: What a person would call it: its path, or its URI when it is remote.
        path: Its path as the filesystem takes it.
        format: How to read it.
        filesystem: The fsspec filesystem that holds it.
    """

    name: str
    path: str
    format: Format
    filesystem: Any

    @property
    def local(self) -> bool:
        """Whether the file lies on this machine's disk."""
        return isinstance(self.filesystem, LocalFileSystem)


def find_files(uri: str, kind: Literal["auto", "parquet", "csv"] = "auto") -> list[SourceFile]:
    """Returns the files that a URI names, sorted by path.

    Args:
        uri: A path, a URI or a glob; a folder stands for the Parquet and CSV files right in it. A relative path starts
            at the project folder.
        kind: The format, or `auto` to go by each file's ending.

    Raises:
        InputError: Nothing matches, the filesystem is unknown or out of reach, or an ending tells no format.
    """
    address = uri if "://" in uri or "::" in uri or Path(uri).is_absolute() else str(project_folder().absolute() / uri)
    with reaching(uri):
        filesystem, path = locate(address)
        if filesystem.isfile(path):
            paths = [path]
        elif filesystem.isdir(path):
            listed = filesystem.ls(path, detail=False)
            paths = [entry for entry in listed if _ending(entry) and filesystem.isfile(entry)]
        elif any(sign in path for sign in "*?["):
            paths = [entry for entry in filesystem.glob(path) if filesystem.isfile(entry)]
        else:
            raise InputError(f"{address}: no such file")
    if not paths:
        raise InputError(f"{address}: no file matches (Parquet or CSV)")
    return [_source_file(filesystem, str(entry), kind) for entry in sorted(paths)]


def named_uri(data: DataSection, source: str) -> str | None:
    """Returns the URI to read: `source` if given, else the spec's; None when the spec names a loader."""
    return source or data.uri


def fetched(files: list[SourceFile], folder: Path) -> Iterator[tuple[SourceFile, Path]]:
    """Yields each file with its path on this machine; remote ones are copied into `folder`.

    Raises:
        InputError: A file cannot be fetched, came short, or was changed meanwhile.
    """
    for index, file in enumerate(files):
        if file.local:
            yield file, Path(file.path)
            continue
        # The copy keeps its ending, which tells its compression.
        copy = folder / f"{index:06d}-{file.path.rsplit('/', 1)[-1]}"
        fetch_file(file.filesystem, file.path, copy, file.name)
        yield file, copy


def _ending(path: str) -> Format | None:
    name = path.rsplit("/", 1)[-1].lower()
    return next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), None)


def _source_file(filesystem: Any, path: str, kind: Literal["auto", "parquet", "csv"]) -> SourceFile:
    name = path if isinstance(filesystem, LocalFileSystem) else str(filesystem.unstrip_protocol(path))
    found = _ending(path) if kind == "auto" else kind
    if found is None:
        raise InputError(f"{name}: unknown ending; expected one of {', '.join(_ENDINGS)}, or set data.format")
    return SourceFile(name, path, found, filesystem)
