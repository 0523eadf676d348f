"""Checkpoints of a training: safetensors and JSON, written whole or not at all, in one folder for each training.

The folder is named by the digest of all that the result depends on, so that only the very same training resumes it, and
is locked while one does. `$SHIPWAY_CHECKPOINTS` names an object store's folder that gets a copy, for containers whose
own folders do not outlive them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.errors import ShipwayError
from shipway.lineage.digests import digest_bytes
from shipway.lineage.files import write_bytes, write_json
from shipway.train.remote_checkpoints import RemoteCheckpoints, remote_checkpoints

if TYPE_CHECKING:
    import torch

LOCK_SECONDS = 60.0
_KEPT = 2
_POLL_SECONDS = 0.05
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch.

    Attributes:
        epoch: The epoch, counted from 1.
        tensors: Named tensors, on the CPU.
        facts: JSON values besides.
    """

    epoch: int
    tensors: Mapping[str, torch.Tensor]
    facts: dict[str, Any]


class CheckpointStore:
    """The checkpoints in one folder; the last two are kept.

    A checkpoint is `epoch-00003.safetensors` and, written after it, `epoch-00003.json` with the digest of the first.
    """

    def __init__(self, folder: Path, remote: RemoteCheckpoints | None = None) -> None:
        self.folder = folder
        self._remote = remote

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and removes those before the last two.

        Raises:
            InputError: The object store that is to have a copy refuses the first one.
        """
        from safetensors.torch import save

        # Tensors that share memory (tied weights) are written one by one.
        content = save({name: tensor.detach().cpu().clone() for name, tensor in checkpoint.tensors.items()})
        path = self._tensors(checkpoint.epoch)
        write_bytes(path, content)
        facts = {"epoch": checkpoint.epoch, "tensors": digest_bytes(content), "facts": checkpoint.facts}
        write_json(path.with_suffix(".json"), facts)
        old = [self._tensors(epoch) for epoch in self._epochs()[:-_KEPT]]
        stale = [file.name for tensors in old for file in (tensors.with_suffix(".json"), tensors)]
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        if self._remote:
            # With them goes what else the next container needs: the MLflow run's id.
            others = [file.name for file in self.folder.glob("*.json") if not file.name.startswith("epoch-")]
            self._remote.put([*others, path.name, path.with_suffix(".json").name])
            self._remote.remove(stale)

    def latest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole; damaged ones are told of in the log and passed over."""
        for epoch in reversed(self._epochs()):
            try:
                return self._read(epoch)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _LOGGER.warning("%s: damaged checkpoint passed over: %s", self._tensors(epoch), error)
        return None

    def clear(self) -> None:
        """Removes the folder, and its copy: the training is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._remote:
            self._remote.clear()

    def _read(self, epoch: int) -> Checkpoint:
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._tensors(epoch)
        described = json.loads(path.with_suffix(".json").read_bytes())
        content = path.read_bytes()
        if digest_bytes(content) != described["tensors"]:
            raise ValueError("its tensors are not those that were written")
        try:
            return Checkpoint(epoch, load(content), dict(described["facts"]))
        except SafetensorError as error:
            raise ValueError(str(error)) from error

    def _tensors(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05d}.safetensors"

    def _epochs(self) -> list[int]:
        return sorted(int(path.stem.partition("-")[2]) for path in self.folder.glob("epoch-[0-9]*.json"))


@contextmanager
def hold(folder: Path, wait: float = LOCK_SECONDS) -> Iterator[CheckpointStore]:
    """Creates and locks a training's folder, so that two processes never train the same thing at once.

    The kernel lets go of the lock however its holder ends. A predecessor that is just dying is waited for.

    Args:
        folder: The folder.
        wait: Seconds to wait for the lock.

    Raises:
        ShipwayError: Another process holds it, the folder cannot be made, or the store with its copy is out of reach.
    """
    deadline = time.monotonic() + wait
    while True:
        handle = _open(folder)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, folder):
                break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(handle)
                raise ShipwayError(
                    f"{folder}: another process has been training the same model on the same data for over {wait:g} s; "
                    "wait for it to end, or stop it"
                ) from error
            time.sleep(_POLL_SECONDS)
        except BaseException:
            os.close(handle)
            raise
        # Locked, but its predecessor has removed it meanwhile; or not locked yet.
        os.close(handle)
    try:
        remote = remote_checkpoints(folder)
        if remote:
            remote.restore()
        yield CheckpointStore(folder, remote)
    finally:
        os.close(handle)


def _open(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Its predecessor removed it between the two calls.
            continue
        except OSError as error:
            raise ShipwayError(f"{folder}: cannot keep checkpoints there: {error.strerror}") from error


def _is_at(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False
