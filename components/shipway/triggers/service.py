"""The trigger service: one process that takes alerts in, decides about them, and starts runs."""

import gc
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from shipway.errors import InputError, ShipwayError
from shipway.lineage.project import state_folder
from shipway.triggers.app import create_app
from shipway.triggers.auth import is_loopback
from shipway.triggers.database import DATABASE_VARIABLE
from shipway.triggers.exposition import Telemetry
from shipway.triggers.routes import load_routes
from shipway.triggers.settings import app_settings, without_authentication
from shipway.triggers.store import Store
from shipway.triggers.worker import Engine

DATABASE_FILE = "trigger.db"
_GRACE_SECONDS = 10
_BACKLOG = 2048


def serve(routes_path: Path, *, host: str, port: int, database: str = "", state: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        routes_path: The routes file.
        host: Address to listen on; one that is not loopback demands authentication of every source and reader.
        port: Port; 0 takes a free one.
        database: SQLAlchemy URL; "" for `$SHIPWAY_DATABASE_URL`, else SQLite in the state folder.
        state: State folder of the runs of this machine; default: as everywhere.

    Raises:
        InputError: The routes file, a secret, the address or the database URL is wrong.
        StoreError: The database cannot be reached or written.
    """
    routes = load_routes(routes_path)
    settings = app_settings(routes)
    if not is_loopback(host) and (unguarded := without_authentication(settings)):
        raise InputError(
            f"{routes_path}: {', '.join(unguarded)}: no authentication, which is for loopback only; --host {host} "
            "is reached by others: name a secret there (auth, readers.bearer), or listen on 127.0.0.1"
        )
    folder = (state or state_folder()).absolute()
    listener = _listen(host, port)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with listener, _store(database, folder) as store:
        telemetry = Telemetry(routes.sources, [route.name for route in routes.routes])
        engine = Engine(store, routes, folder, telemetry.decided)
        app = create_app(settings, store, engine, telemetry)
        config = uvicorn.Config(
            app,
            backlog=_BACKLOG,
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        engine.start()
        bound = listener.getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        print(f"trigger service at http://{shown}:{bound[1]}, {len(routes.routes)} routes, {store.place}", flush=True)
        # What is there for good need not be looked through again and again, while alerts wait.
        gc.collect()
        gc.freeze()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            engine.stop()


@contextmanager
def _store(database: str, folder: Path) -> Iterator[Store]:
    url = database or os.environ.get(DATABASE_VARIABLE, "")
    if not url:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot make the state folder: {error.strerror}") from error
        url = f"sqlite:///{folder / DATABASE_FILE}"
    store = Store(url)
    try:
        yield store
    finally:
        store.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Whoever calls from now on waits until there is somebody to answer.
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ShipwayError(f"cannot listen on {host}:{port}: {error}") from error
    return listener
