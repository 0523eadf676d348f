"""Puts a batch's predictions where the spec wants them: a folder a batch, whole or not at all, once."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from shipway.errors import InputError
from shipway.lineage import storage
from shipway.lineage.batches import BATCH_FILE, BatchInfo
from shipway.lineage.files import atomic_folder
from shipway.lineage.project import project_folder
from shipway.lineage.storage_errors import is_remote, reaching


def batch_uri(output: str, batch: str) -> str:
    """Returns where a batch's predictions go; a relative path starts at the project folder."""
    if is_remote(output):
        return storage.join(output, batch)
    path = Path(output.removeprefix("file://"))
    return str((path if path.is_absolute() else project_folder().absolute() / path) / batch)


def published(output: str, batch: str) -> BatchInfo | None:
    """Returns the description of a batch that lies whole where it belongs, else None.

    Raises:
        InputError: The place cannot be reached, or holds something else.
    """
    uri = storage.join(batch_uri(output, batch), BATCH_FILE)
    content = storage.read_bytes(uri)
    if content is None:
        return None
    try:
        return BatchInfo.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "document"
        raise InputError(f"{uri}: not of Shipway's making: {where}: {fault['msg']}; move it away") from error


def publish(folder: Path, output: str, batch: str) -> str:
    """Copies a batch's folder to its place, unless it is there already; returns the place.

    On a disk the folder appears whole. On an object store `batch.json` comes last: who finds it finds all.

    Args:
        folder: The batch's predictions.
        output: The spec's inference.output.
        batch: The batch's id.

    Raises:
        InputError: The place cannot be reached, or refuses.
    """
    uri = batch_uri(output, batch)
    if published(output, batch) is not None:
        return uri
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != BATCH_FILE]
    if is_remote(uri):
        for path in [*files, folder / BATCH_FILE]:
            storage.upload(path, storage.join(uri, path.name))
        return uri
    with reaching(uri, "write"), atomic_folder(uri) as work:
        for path in [*files, folder / BATCH_FILE]:
            storage.upload(path, str(work / path.name))
    return uri
