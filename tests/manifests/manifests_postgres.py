"""A PostgreSQL of its own, from Debian's package, set up as the image of the manifests would set it up."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
BIN = _FOUND[-1] if _FOUND else None
MISSING = "no PostgreSQL on this machine (apt-get install postgresql)"


@contextlib.contextmanager
def postgres(user: str, password: str) -> Iterator[int]:
    """Runs a server with one superuser, who has a database of the same name, and returns its port on 127.0.0.1."""
    assert BIN is not None, MISSING
    # initdb refuses root, and nobody else may enter pytest's own folders.
    someone = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="shipway-postgres-"))
    try:
        (folder / "password").write_text(password)
        (folder / "data").mkdir()
        if someone:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, someone)
        options = ["--auth-host=scram-sha-256", "--auth-local=trust", f"--username={user}", "--no-sync"]
        subprocess.run(
            [BIN / "initdb", f"--pgdata={folder}/data", f"--pwfile={folder}/password", *options],
            user=someone,
            check=True,
            capture_output=True,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", str(port), "-k", str(folder)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [BIN / "postgres", "-D", folder / "data", *settings], user=someone, stdout=log, stderr=log
            )
        try:
            command = [BIN / "psql", f"--host={folder}", f"--port={port}", f"--username={user}", "--dbname=postgres"]
            deadline = time.monotonic() + 60
            while subprocess.run([*command, f"--command=CREATE DATABASE {user}"], capture_output=True).returncode:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
