"""The server process: binds, claims its name, loads the model, answers until SIGTERM, and ends its open requests."""

import asyncio
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from shipway.endpoints.claim import Claim, Claimant
from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import read_json
from shipway.serving.app import create_app
from shipway.serving.model_slot import Loader, ModelSlot, load_package
from shipway.serving.settings import ServerSettings, read_settings

log = logging.getLogger("shipway.serving")

_WATCH_SECONDS = 2.0
_GRACE_SECONDS = 10
_REGISTRY = ("models:", "runs:", "mlflow-artifacts:")


def main(arguments: Sequence[str] | None = None, loader: Loader = load_package) -> int:
    """Runs a server to its end.

    Args:
        arguments: The command line; default: this process's.
        loader: Turns a path and a digest into a package.

    Returns:
        The exit code: 0, or that of the error which kept the server from serving.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        with tempfile.TemporaryDirectory(prefix="shipway-serving-") as scratch:
            return _run(settings, loader, Path(scratch))
    except ShipwayError as error:
        print(f"shipway.serving: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _run(settings: ServerSettings, loader: Loader, scratch: Path) -> int:
    # The claim comes first: of two servers started for one name, the later one leaves without touching anything.
    claim = Claim(settings.state_file) if settings.state_file else None
    listener = _listen(settings)
    if claim:
        host, port = listener.getsockname()[:2]
        claim.announce(Claimant(os.getpid(), host, port, settings.app.instance))
    package = _local_package(settings.package, scratch)
    slot = ModelSlot(settings.name or _own_name(package), loader)
    config = uvicorn.Config(
        create_app(slot, settings.app),
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        # Longer than clients keep idle connections in their pools, so that the client is the one to close them.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(uvicorn.Server(config), listener, slot, package, settings, claim))


async def _serve(
    server: uvicorn.Server,
    listener: socket.socket,
    slot: ModelSlot,
    package: Path,
    settings: ServerSettings,
    claim: Claim | None,
) -> int:
    async def load() -> int:
        # The server is live, but not ready, while this runs.
        try:
            await slot.load(
                package, settings.version or await asyncio.to_thread(_short_digest, package), settings.digest
            )
        except ShipwayError as error:
            print(f"shipway.serving: {error}", file=sys.stderr, flush=True)
            return error.exit_code
        return 0

    async def watch() -> None:
        while claim is not None and not claim.is_lost():
            await asyncio.sleep(_WATCH_SECONDS)
        if claim is not None:
            log.warning("%s is gone, and nobody could find this server without it: ending", settings.state_file)
            server.should_exit = True

    def end_unless_loaded(task: asyncio.Task[int]) -> None:
        if task.cancelled() or task.exception() is not None or task.result() != 0:
            server.should_exit = True

    loading = asyncio.create_task(load())
    loading.add_done_callback(end_unless_loaded)
    watching = asyncio.create_task(watch())
    await server.serve(sockets=[listener])
    watching.cancel()
    return loading.result() if loading.done() else 0


def _listen(settings: ServerSettings) -> socket.socket:
    for port in dict.fromkeys([settings.port or settings.prefer_port, settings.port]):
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            reason = error.strerror
        else:
            return listener
    raise InputError(f"cannot listen on {settings.host}:{settings.port}: {reason}")


def _local_package(package: str, scratch: Path) -> Path:
    path = Path(package.removeprefix("file://"))
    if path.is_dir():
        return path.absolute()
    if "://" not in package and not package.startswith(_REGISTRY):
        raise InputError(f"{package}: no model package there")
    from shipway.model.fetch import fetch_package

    return fetch_package(package, scratch / "package")


def _own_name(package: Path) -> str:
    try:
        name = read_json(package / "package.json")["name"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{package}: not a model package (no package.json with a name)") from error
    return str(name)


def _short_digest(package: Path) -> str:
    from shipway.lineage.digests import digest_tree

    return digest_tree(package).removeprefix("sha256:")[:12]
