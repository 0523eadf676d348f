"""A copy of a training's checkpoints on an object store, from which a fresh container goes on.

Each file is put there whole, and a checkpoint's JSON after its tensors: who finds the one finds the other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from shipway.errors import ShipwayError
from shipway.lineage import storage
from shipway.lineage.files import write_bytes

URI_VARIABLE = "SHIPWAY_CHECKPOINTS"
_LOGGER = logging.getLogger(__name__)


class RemoteCheckpoints:
    """The files of one training at a URI."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self._folder = folder
        self._proven = False

    def restore(self) -> None:
        """Copies to the training's folder what it lacks; a file that is there stays.

        Raises:
            InputError: The store cannot be reached, or refuses.
        """
        for name in storage.names(self.uri):
            path = self._folder / name
            if not path.exists():
                content = storage.read_bytes(storage.join(self.uri, name))
                # Another container may just have removed it.
                if content is not None:
                    write_bytes(path, content)

    def put(self, names: Iterable[str]) -> None:
        """Uploads files in the order given. Once one upload has worked, a later one that fails is only told of.

        Raises:
            InputError: The store cannot be reached, or refuses, from the first.
        """
        try:
            for name in names:
                storage.upload(self._folder / name, storage.join(self.uri, name))
                self._proven = True
        except ShipwayError as error:
            if not self._proven:
                raise
            _LOGGER.warning("checkpoint not uploaded, training goes on: %s", error)

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; what fails is only told of."""
        self._remove([storage.join(self.uri, name) for name in names])

    def clear(self) -> None:
        """Removes all: the training is done."""
        self._remove([self.uri])

    def _remove(self, uris: list[str]) -> None:
        try:
            for uri in uris:
                storage.remove(uri)
        except ShipwayError as error:
            _LOGGER.warning("old checkpoints left behind: %s", error)


def remote_checkpoints(folder: Path) -> RemoteCheckpoints | None:
    """Returns the copy of a training's folder below `$SHIPWAY_CHECKPOINTS`, None where that is unset."""
    named = os.environ.get(URI_VARIABLE)
    return RemoteCheckpoints(storage.join(named, folder.name), folder) if named else None
