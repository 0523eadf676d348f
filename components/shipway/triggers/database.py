"""Opens the trigger service's database: SQLite or PostgreSQL."""

from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from shipway.errors import InputError

DATABASE_VARIABLE = "SHIPWAY_DATABASE_URL"
PRIVATE = (DATABASE_VARIABLE, "PGPASSWORD")
"""Variables that may hold the database's password, which is not for the processes that runs are made of."""

WRITES = "shipway_writes"
"""Execution option of a connection whose transaction writes."""

_BUSY_SECONDS = 10
# A network that swallows packets must not hold a request, or the engine, for as long as TCP would.
_POSTGRESQL = {
    "application_name": "shipway-trigger",
    "connect_timeout": _BUSY_SECONDS,
    "tcp_user_timeout": 30_000,
    "options": "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=60000",
}


def open_engine(url: str) -> Engine:
    """Returns the engine of a database; nothing is connected yet.

    Args:
        url: `sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/NAME` (`postgres://` is the same).

    Raises:
        InputError: The URL is of another kind, or its folder cannot be made.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # The text may hold a password, and so is not repeated.
        raise InputError(
            "database URL: cannot be read; expected sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from error
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    elif kind != "sqlite":
        raise InputError(f"database URL: found {kind}, expected sqlite or postgresql")
    settings: dict[str, Any] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
        # Values are people's text and payloads: neither belongs in a log.
        "hide_parameters": True,
    }
    try:
        if kind != "sqlite":
            return create_engine(
                parsed,
                pool_pre_ping=True,
                connect_args=_POSTGRESQL,
                **settings,
            )
        if not parsed.database or parsed.database == ":memory:":
            raise InputError("database URL: SQLite in memory forgets what was acknowledged; expected sqlite:///PATH")
        Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS}, **settings)
    except (NoSuchModuleError, ImportError, OSError) as error:
        raise InputError(f"database {shown_url(parsed)}: {error}") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def shown_url(url: URL) -> str:
    """Returns a URL for people: without its password, which libpq also takes as a parameter."""
    hidden = {name: "hidden" if "password" in name.lower() else value for name, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # Transactions begin where SQLAlchemy says so, and not where the driver sees the first INSERT.
    connection.isolation_level = None
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")
