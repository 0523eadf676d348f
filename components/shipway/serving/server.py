"""The server process: binds, claims its name, loads what it serves, answers until SIGTERM, ends its open requests."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn

from shipway.endpoints.claim import Claim, Claimant
from shipway.errors import InputError, ShipwayError
from shipway.serving import worker
from shipway.serving.access_log import AccessLog
from shipway.serving.app import create_app
from shipway.serving.flags import Flags
from shipway.serving.model_slot import Loader, load_package
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.predictions import Choice
from shipway.serving.remote_mirror import follow
from shipway.serving.router import Router, RouterSettings
from shipway.serving.settings import ServerSettings, read_settings
from shipway.serving.start import load_all, local_package, own_name
from shipway.serving.telemetry import Telemetry

log = logging.getLogger("shipway.serving")

# A request gives the interpreter up while the model runs; the threads that count and log must soon give it back.
_SWITCH_SECONDS = 0.0001
_WATCH_SECONDS = 2.0
_GRACE_SECONDS = 10
_WORKER = "--worker"


class _Server(uvicorn.Server):
    """Ends by SIGTERM and SIGINT, without raising them again afterwards: logs and processes are still to be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals, from here to the end of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main(arguments: Sequence[str] | None = None, loader: Loader = load_package) -> int:
    """Runs a server to its end.

    Args:
        arguments: The command line; default: this process's.
        loader: Turns a path and a digest into a package. With one of its own, a program starts itself again, with
            `--worker`, for the processes of revisions.

    Returns:
        The exit code: 0, or that of the error which kept the server from serving.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [_WORKER]:
        return worker.main(given[1:], loader)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    # Polars writes the prediction log beside the requests: threads of its own would take the processors from them.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        settings = read_settings(given, os.environ)
        if loader is not load_package:
            settings = replace(settings, router=_with_command(settings.router, given))
        with tempfile.TemporaryDirectory(prefix="shipway-serving-") as scratch:
            return _run(settings, loader, Path(scratch))
    except ShipwayError as error:
        print(f"shipway.serving: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _with_command(settings: RouterSettings, given: Sequence[str]) -> RouterSettings:
    """Has workers started by this very program, without its own arguments."""
    program = sys.orig_argv[1 : len(sys.orig_argv) - len(given)]
    command = (sys.executable, *program, _WORKER)
    return replace(settings, worker=replace(settings.worker, command=command))


def _run(settings: ServerSettings, loader: Loader, scratch: Path) -> int:
    # The claim comes first: of two servers started for one name, the later one leaves without touching anything.
    claim = Claim(settings.state_file) if settings.state_file else None
    listener = _listen(settings)
    if claim:
        host, port = listener.getsockname()[:2]
        claim.announce(Claimant(os.getpid(), host, port, settings.app.instance))
    package = local_package(settings.package, scratch) if settings.table is None else Path()
    settings = replace(settings, name=settings.name or own_name(package))
    factory = uvicorn.Config(lambda: None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(settings, loader, package, listener, claim))


async def _serve(
    settings: ServerSettings, loader: Loader, package: Path, listener: socket.socket, claim: Claim | None
) -> int:
    async with AsyncExitStack() as stack:
        access = AccessLog(settings.access_log == "errors") if settings.access_log != "off" else None
        telemetry = Telemetry(settings.name, log=_prediction_log(settings), access=access)
        stack.push_async_callback(asyncio.to_thread, telemetry.close)
        flags = None
        if settings.flag is not None:
            wanted = settings.flag
            flags = await asyncio.to_thread(Flags, wanted.flag, wanted.provider, wanted.attributes)
            stack.callback(flags.close)
        router = Router(settings.name, telemetry, settings.router, loader)
        stack.push_async_callback(router.close)
        app = create_app(router, settings.app, Choice(settings.sticky, flags), access)
        server = _Server(
            uvicorn.Config(
                app,
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
        )
        return await _answer(server, settings, router, package, listener, claim)
    raise AssertionError("the stack swallows nothing")


async def _answer(
    server: uvicorn.Server,
    settings: ServerSettings,
    router: Router,
    package: Path,
    listener: socket.socket,
    claim: Claim | None,
) -> int:
    async def load() -> int:
        # The server is live, but not ready, while this runs.
        try:
            await load_all(router, settings, package)
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
    others = [asyncio.create_task(watch())]
    if settings.control:
        others.append(asyncio.create_task(follow(settings.control, router)))
    await server.serve(sockets=[listener])
    for task in others:
        task.cancel()
    if loading.done():
        return loading.result()
    loading.cancel()
    await asyncio.wait([loading])
    return 0


def _prediction_log(settings: ServerSettings) -> PredictionLog | None:
    wanted = settings.log
    if not wanted.uri or not wanted.share:
        return None
    return PredictionLog(wanted.uri, share=wanted.share, keep_seconds=wanted.keep_seconds)


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
