"""Releases of stand-ins and of real packages, for tests of the endpoint and the stages around it."""

import os
import signal
from pathlib import Path

from serving_stand_in import write_stand_in

from shipway.lineage.documents import Blessing, Release


def release_of(package: Path, digest: str, version: str, name: str = "flights") -> Release:
    blessing = Blessing(decision="blessed", model_digest=digest, evaluation_digest="sha256:0", rules=[])
    return Release(
        name=name,
        version=version,
        digest=digest,
        package_uri=str(package),
        tracking_uri="",
        created=True,
        blessing=blessing,
    )


def stand_in_release(folder: Path, version: str, mode: str = "ok") -> Release:
    """Writes a stand-in that predicts by its version, and returns its release."""
    package = folder / f"package-{version}"
    return release_of(package, write_stand_in(package, mode=mode, shift=float(version)), version)


def server_processes(state: Path) -> list[int]:
    """Returns the living processes that have this state folder on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            state_letter = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state_letter != "Z" and any(str(state).encode() in word for word in arguments):
            found.append(int(entry.name))
    return found


def end_all(state: Path) -> None:
    for pid in server_processes(state):
        os.kill(pid, signal.SIGKILL)
