"""Starting a server process: on this machine, or, from inside a step's container, by the run that started the step.

A server must outlive the step that deploys it, and so cannot live in the step's container. A run in containers
listens on a socket (`$SHIPWAY_LAUNCHER`) for what to start. The request is a line of JSON with `arguments` and `log`;
the answer is a line when the server has ended, `{"exit": code}`. A second line from the asker, whatever it says, kills
the server; a closed connection means that the asker has heard enough.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shipway.errors import ShipwayError

LAUNCHER_VARIABLE = "SHIPWAY_LAUNCHER"
_INHERITED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|PYTHONPATH|PYTHONDONTWRITEBYTECODE|LD_LIBRARY_PATH|DYLD_\w+|"
    r"OMP_NUM_THREADS|SSL_CERT_\w+|FLAGD_\w+"
)
_STORES = re.compile(r"AWS_\w+|GOOGLE_\w+|STORAGE_EMULATOR_HOST")


class ServerProcess(Protocol):
    """A server that was started."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, None while it lives."""

    def kill(self) -> None:
        """Ends it at once."""


def start_process(
    command: Sequence[str],
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> ServerProcess:
    """Starts a server that outlives this process.

    Args:
        command: What starts a server on this machine; where the run starts it, its image says that.
        arguments: The server's options.
        folder: Its working directory on this machine.
        log: Where its output goes, over what was there.
        variables: Environment variables of its own, besides those with which `arguments` need an object store; where
            the run starts it, the run gives it all of these itself.

    Raises:
        ShipwayError: The run that should start it does not answer.
    """
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher:
        return _Launched(launcher, arguments, log)
    environment = {key: value for key, value in os.environ.items() if _INHERITED.fullmatch(key)}
    environment |= {**store_variables(arguments), **(variables or {})}
    with private_log(log) as handle:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    # The server outlives this process; while both live, somebody has to take note of its end.
    threading.Thread(target=process.wait, name=f"wait-{secrets.token_hex(4)}", daemon=True).start()
    return process


def store_variables(arguments: Sequence[str]) -> dict[str, str]:
    """Returns this process's environment variables that a server needs which writes its log to an object store."""
    if not any("://" in argument for argument in arguments):
        return {}
    return {key: value for key, value in os.environ.items() if _STORES.fullmatch(key)}


class _Launched:
    """A server that the run has started."""

    def __init__(self, launcher: str, arguments: Sequence[str], log: Path) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection.connect(launcher)
            request = {"arguments": list(arguments), "log": str(log)}
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise ShipwayError(f"{launcher}: the run that starts servers does not answer: {error}") from error
        threading.Thread(target=self._wait, name="launched", daemon=True).start()

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(OSError):
            self._connection.sendall(b"kill\n")

    def _wait(self) -> None:
        with self._connection, self._connection.makefile("r") as answers:
            line = answers.readline()
        # A launcher that ends takes nothing with it: the server lives on, and is asked itself.
        if line:
            self.returncode = int(json.loads(line)["exit"])


@contextlib.contextmanager
def private_log(path: Path) -> Iterator[int]:
    """Opens an empty log that nobody else may read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        os.fchmod(handle, 0o600)
        yield handle
    finally:
        os.close(handle)
