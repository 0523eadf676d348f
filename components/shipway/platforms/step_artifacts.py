"""Artifacts as plain files: a path with its description beside it, here or on an object store.

`dataset` has its kind, metadata and file sizes in `dataset.artifact.json`. An upload writes the description first, so
that nobody takes half of an artifact for all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import InputError
from shipway.lineage.files import write_text
from shipway.lineage.storage import fetch, join, local_sizes, read_bytes, upload, write_bytes
from shipway.lineage.storage_errors import is_remote


class ArtifactDescription(BaseModel):
    """What KFP would keep of an artifact.

    Attributes:
        type: Its kind, as `system.Dataset`.
        metadata: What the stage said of it.
        files: Its files, relative ("" for the artifact itself), with their sizes in bytes.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    type: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, int] = Field(default_factory=dict)


def description_file(artifact: str) -> str:
    """Returns the name of the description of an artifact, given its name, path or URI."""
    return f"{artifact.rstrip('/')}.artifact.json"


def describe(path: Path, kind: Any, metadata: dict[str, Any]) -> None:
    """Writes an artifact's description beside it."""
    description = ArtifactDescription(type=kind.schema_title, metadata=metadata, files=local_sizes(path))
    write_text(description_file(str(path)), description.model_dump_json(indent=2) + "\n")


def given_artifact(flag: str, place: str, kind: Any, scratch: Path) -> dict[str, Any]:
    """Returns an input artifact as KFP's executor takes it, with the metadata that its description keeps.

    One without a description, as KFP or a person puts it there, is taken as it is.

    Args:
        flag: The option that names it, to begin an error message.
        place: Its path or URI.
        kind: The artifact class that the stage takes.
        scratch: Folder for the copy of a remote one.

    Raises:
        InputError: There is no such artifact, it is not whole or of another kind.
    """
    description = _description(flag, place)
    if description and kind.schema_title not in ("system.Artifact", description.type):
        raise InputError(f"{flag} {place}: expected a {kind.schema_title}, found a {description.type}")
    if is_remote(place):
        path = scratch / place.rstrip("/").rpartition("/")[2]
        fetch(place, path, description.files if description else None)
    else:
        path = Path(place.removeprefix("file://")).absolute()
        if not path.exists():
            raise InputError(f"{flag} {place}: no such file or folder")
    metadata = description.metadata if description else {}
    return {"name": path.name, "uri": str(path), "type": {"schemaTitle": kind.schema_title}, "metadata": metadata}


def publish(folder: Path, uri: str, names: list[str]) -> None:
    """Uploads files and folders in the order given; paths in JSON documents become URIs.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    for name in names:
        path = folder / name
        if path.suffix == ".json":
            write_bytes(join(uri, name), path.read_text().replace(str(folder), uri.rstrip("/")).encode())
        elif path.exists():
            upload(path, join(uri, name))


def _description(flag: str, place: str) -> ArtifactDescription | None:
    where = description_file(place)
    if is_remote(place):
        content = read_bytes(where)
    else:
        file = Path(where.removeprefix("file://"))
        content = file.read_bytes() if file.is_file() else None
    if content is None:
        return None
    try:
        return ArtifactDescription.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        at = ".".join(map(str, fault["loc"])) or "document"
        raise InputError(f"{flag} {place}: its description {where} is damaged: {at}: {fault['msg']}") from error
