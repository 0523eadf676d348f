"""The finished parts of a batch, kept until the batch is gathered, so that a run cut short goes on where it was.

They lie in a folder of the state folder named by the batch's id. `$SHIPWAY_CHECKPOINTS` names an object store's folder
that gets a copy, for containers whose own folders do not outlive them. A part is `part-00003.parquet` and, written
after it, `part-00003.json` with its digest and that of what it was scored from.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from shipway.errors import ShipwayError
from shipway.lineage import storage
from shipway.lineage.batches import SliceTally
from shipway.lineage.digests import digest_file
from shipway.lineage.documents import Document
from shipway.lineage.files import write_bytes, write_text
from shipway.lineage.locks import lock
from shipway.lineage.project import state_folder
from shipway.model.profile import Profile

REMOTE_VARIABLE = "SHIPWAY_CHECKPOINTS"
_FOLDER = "batches"
_BEGUN = "begun.json"
_LOCK = ".lock"
_ABANDONED_SECONDS = 14 * 86_400
_LOGGER = logging.getLogger(__name__)


class Begun(Document):
    """Which run began a batch, and when (UTC, ISO 8601)."""

    run_id: str
    began: str


class FinishedPart(Document):
    """What is known of a finished part.

    Attributes:
        source: Digest of what it was scored from.
        digest: Digest of its file.
        predicted: How many rows it has.
        profile: The rows and predictions, counted.
        slices: The predictions by the values of raw columns.
    """

    source: str
    digest: str
    predicted: int
    profile: Profile
    slices: list[SliceTally]


class FinishedParts:
    """The finished parts of one batch.

    Args:
        batch: The batch's id.
    """

    def __init__(self, batch: str) -> None:
        self.folder = state_folder() / _FOLDER / batch
        named = os.environ.get(REMOTE_VARIABLE)
        self._remote = storage.join(named, _FOLDER, batch) if named else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps others from removing the folder for the length of a block; makes it if need be.

        Raises:
            ShipwayError: It cannot be made.
        """
        handle = self._open()
        try:
            self._sweep()
            yield
        finally:
            os.close(handle)

    def begin(self, own: Begun) -> Begun:
        """Returns which run began the batch; when nobody has, that is this one."""
        path = self.folder / _BEGUN
        if self._remote and not path.exists():
            known = storage.read_bytes(storage.join(self._remote, _BEGUN))
            if known is None:
                storage.write_bytes(storage.join(self._remote, _BEGUN), own.model_dump_json().encode())
            else:
                own = Begun.model_validate_json(known)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".tmp") as file:
            file.write(own.model_dump_json())
            file.flush()
            # Of several steps that begin at once the first one's stays.
            with suppress(FileExistsError):
                os.link(file.name, path)
        return Begun.model_validate_json(path.read_bytes())

    def find(self, name: str, source: str) -> FinishedPart | None:
        """Returns a finished part that was scored from `source`; None where there is none, or no whole one.

        Args:
            name: Its file name.
            source: Digest of what it would be scored from.

        Raises:
            InputError: The object store cannot be reached, or refuses.
        """
        described = self._described(name)
        if self._remote and not described.exists():
            self._restore(name)
        if not described.is_file():
            return None
        try:
            part = FinishedPart.model_validate_json(described.read_bytes())
        except ValidationError as error:
            _LOGGER.warning("%s: damaged, the part is scored again: %s", described, error.errors()[0]["msg"])
            return None
        if part.source != source:
            return None
        path = self.folder / name
        if not path.is_file() or digest_file(path) != part.digest:
            _LOGGER.warning("%s: not the file that was written, the part is scored again", path)
            return None
        return part

    def finish(self, name: str, part: FinishedPart) -> None:
        """Marks a part as finished, whose file is in the folder.

        Raises:
            InputError: The object store that is to have a copy refuses.
        """
        described = self._described(name)
        write_text(described, part.model_dump_json() + "\n")
        if self._remote:
            for file in (self.folder / name, described):
                storage.upload(file, storage.join(self._remote, file.name))

    def clear(self) -> None:
        """Removes all, unless a step still works there: the batch is gathered."""
        _remove(self.folder)
        if self._remote:
            try:
                storage.remove(self._remote)
            except ShipwayError as error:
                _LOGGER.warning("finished parts left behind: %s", error)

    def _described(self, name: str) -> Path:
        return (self.folder / name).with_suffix(".json")

    def _restore(self, name: str) -> None:
        """Copies a part from the object store, if it is there whole."""
        described = self._described(name)
        remote = str(self._remote)
        content = storage.read_bytes(storage.join(remote, described.name))
        rows = storage.read_bytes(storage.join(remote, name)) if content is not None else None
        if content is not None and rows is not None:
            write_bytes(self.folder / name, rows)
            write_bytes(described, content)

    def _open(self) -> int:
        try:
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                lock(handle, fcntl.LOCK_SH, 60.0)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), (self.folder / _LOCK).stat()):
                        return handle
                # Another process removed the folder just before.
                os.close(handle)
        except OSError as error:
            raise ShipwayError(f"{self.folder}: cannot keep finished parts there: {error.strerror}") from error

    def _sweep(self) -> None:
        """Removes what nobody has gone on with for two weeks."""
        for folder in self.folder.parent.iterdir():
            with suppress(OSError):
                if folder != self.folder and time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    _remove(folder)


def _remove(folder: Path) -> None:
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if lock(handle, fcntl.LOCK_EX, 0):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
