"""The trigger service's memory: SQLite in the state folder, or PostgreSQL.

What is committed is on the disk: SQLite runs with a write-ahead log and `synchronous=FULL`, PostgreSQL with its own
default. Intake and engine share one `Store`; each takes a connection of its own from it.
"""

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    Insert,
    Select,
    delete,
    exists,
    func,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.sql.dml import ReturningInsert

from shipway.errors import ShipwayError
from shipway.triggers.database import WRITES, open_engine, shown_url
from shipway.triggers.incoming import Incoming
from shipway.triggers.tables import alerts, decisions, facts, is_new, metadata

# Any number will do, so long as all replicas know the same.
_SETUP_LOCK = 0x5417_7A15
_FINGERPRINT_LENGTH = 200
MOMENT = 1e-6
"""Seconds between two rows that are written at once; what a clock of seconds since the epoch still tells apart."""


class StoreError(ShipwayError):
    """The database did not take or give what it was asked for."""

    kind = "store"


class UnstorableError(StoreError):
    """The database is well, but will not have these values."""


@dataclass(frozen=True, slots=True)
class Fact:
    """The last word on a model.

    Attributes:
        model: The model's name.
        kind: `check` (the figures of its last check), `live` (the version that is live) or `baseline VERSION` (that
            version's figures just after it went live).
        version: The version it is about.
        data: The figures.
        time: When it was so, in seconds since the epoch; an older one never replaces a newer one.
    """

    model: str
    kind: str
    version: str
    data: Mapping[str, Any]
    time: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event of a request, with what it says about a model.

    Attributes:
        incoming: The event.
        facts: What is to be remembered of it.
    """

    incoming: Incoming
    facts: Sequence[Fact] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """An alert that is in the store.

    Attributes:
        id: Its id.
        folded: Whether it was there already.
    """

    id: str
    folded: bool


def alert_id(source: str, fingerprint: str) -> str:
    """Returns an alert's id, which source and fingerprint decide: 24 hexadecimal digits."""
    return hashlib.sha256(orjson.dumps([source, fingerprint])).hexdigest()[:24]


def bounded_fingerprint(fingerprint: str) -> str:
    """Returns a fingerprint that fits the column: a long one is replaced by its digest."""
    if len(fingerprint) <= _FINGERPRINT_LENGTH:
        return fingerprint
    return "sha256:" + hashlib.sha256(fingerprint.encode()).hexdigest()


class Store:
    """The tables of one database.

    Args:
        url: SQLAlchemy URL: `sqlite:///path` or `postgresql+psycopg2://user:password@host/name`. `postgres://` and
            `postgresql://` are taken for the latter.

    Raises:
        InputError: The URL is of another kind.
        StoreError: The database cannot be reached or written.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        self.dialect = self._engine.dialect.name
        # Who finds SQLite's write lock taken sleeps for up to 100 ms at a time: threads of one process wait here.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.dialect == "sqlite" else nullcontext()
        self.place = shown_url(self._engine.url)
        with self.writing() as connection:
            if self.dialect == "postgresql":
                # Two replicas that start at once do not both create the tables.
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _SETUP_LOCK})
            metadata.create_all(connection)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, committed at its end.

        SQLite's write lock is taken at its beginning, so that what it read still holds when it writes.

        Raises:
            StoreError: The database failed; nothing of the transaction is kept.
        """
        with self._turn, self._transaction({WRITES: True}) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads.

        Raises:
            StoreError: The database failed.
        """
        with self._transaction({}) as connection:
            yield connection

    @contextmanager
    def _transaction(self, options: dict[str, Any]) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            kind = UnstorableError if isinstance(error, DataError) else StoreError
            raise kind(f"database {self.place}: {_reason(error)}") from error

    def insert(self, table: Any) -> "sqlite.Insert | postgresql.Insert":
        """Returns the dialect's INSERT, which knows ON CONFLICT."""
        return postgresql.insert(table) if self.dialect == "postgresql" else sqlite.insert(table)

    def add(self, deliveries: Sequence[Delivery], now: float | None = None) -> list[Stored]:
        """Stores events in one transaction; one that is there already is counted and not stored again.

        Args:
            deliveries: The events; the same one may be among them more than once.
            now: Seconds since the epoch; default: the clock.

        Returns:
            One for each delivery, in their order.

        Raises:
            StoreError: Nothing was stored.
            UnstorableError: Nothing was stored, and one of them never will be.
        """
        moment = time.time() if now is None else now
        ids = [alert_id(one.incoming.source, one.incoming.fingerprint) for one in deliveries]
        rows: dict[str, dict[str, Any]] = {}
        for key, delivery in zip(ids, deliveries, strict=True):
            if key in rows:
                rows[key]["count"] += 1
            else:
                # No two at one moment: readers go back by it, and decisions are made in its order.
                rows[key] = _alert_row(key, delivery.incoming, moment + len(rows) * MOMENT)
        latest = _latest(fact for one in deliveries for fact in one.facts)
        with self.writing() as connection:
            # In one order everywhere: two replicas that store the same alerts must not wait for each other.
            ordered = [rows[key] for key in sorted(rows)]
            try:
                counts = dict(connection.execute(self._upsert_alerts(), ordered).all())
                if latest:
                    connection.execute(self._upsert_facts(), latest)
            except ValueError as error:
                # psycopg2's own word for a text with NUL.
                raise UnstorableError(f"database {self.place}: {error}") from error
        seen: set[str] = set()
        stored = []
        for key in ids:
            stored.append(Stored(key, key in seen or counts[key] > rows[key]["count"]))
            seen.add(key)
        return stored

    def _upsert_alerts(self) -> "ReturningInsert[str, int]":
        statement = self.insert(alerts)
        return statement.on_conflict_do_update(
            index_elements=[alerts.c.source, alerts.c.fingerprint],
            set_={
                "count": alerts.c.count + statement.excluded.count,
                "last_seen": statement.excluded.last_seen,
            },
        ).returning(alerts.c.id, alerts.c.count)

    def _upsert_facts(self) -> Insert:
        statement = self.insert(facts)
        return statement.on_conflict_do_update(
            index_elements=[facts.c.model, facts.c.kind],
            set_={name: statement.excluded[name] for name in ("version", "data", "time")},
            where=facts.c.time <= statement.excluded.time,
        )

    def alerts(self, limit: int = 100, before: float | None = None, source: str = "") -> list[dict[str, Any]]:
        """Returns the latest alerts, newest first, each with `decisions`: what the routes made of it, and why.

        Args:
            limit: How many at most.
            before: Only those received before this moment, in seconds since the epoch.
            source: Only those of this source; "" for all.

        Raises:
            StoreError: The database failed.
        """
        query = select(*[column for column in alerts.c if column.name != "payload"])
        if before is not None:
            query = query.where(alerts.c.received < before)
        if source:
            query = query.where(alerts.c.source == source)
        with self.reading() as connection:
            found = [dict(row) for row in connection.execute(_newest(query, alerts, limit)).mappings()]
            return _with_decisions(connection, found)

    def alert(self, key: str) -> dict[str, Any] | None:
        """Returns one alert with its payload and `decisions`, or None.

        Raises:
            StoreError: The database failed.
        """
        with self.reading() as connection:
            row = connection.execute(select(alerts).where(alerts.c.id == key)).mappings().one_or_none()
            return None if row is None else _with_decisions(connection, [dict(row)])[0]

    def runs(self, limit: int = 100, before: float | None = None, route: str = "") -> list[dict[str, Any]]:
        """Returns the latest decisions that start a run or act, newest first; `title` and `source` are their alert's.

        Args:
            limit: How many at most.
            before: Only those made before this moment, in seconds since the epoch.
            route: Only those of this route; "" for all.

        Raises:
            StoreError: The database failed.
        """
        query = select(decisions, alerts.c.title, alerts.c.source).join(alerts).where(decisions.c.state != "skipped")
        if before is not None:
            query = query.where(decisions.c.created < before)
        if route:
            query = query.where(decisions.c.route == route)
        query = query.order_by(decisions.c.created.desc(), decisions.c.id.desc()).limit(limit)
        with self.reading() as connection:
            return [_told(row) for row in connection.execute(query).mappings()]

    def counts(self) -> tuple[int, dict[str, int]]:
        """Returns how many alerts wait for a decision, and the decisions that were not skipped by state.

        Raises:
            StoreError: The database failed.
        """
        new = select(func.count()).select_from(alerts).where(is_new)
        states = (
            select(decisions.c.state, func.count()).where(decisions.c.state != "skipped").group_by(decisions.c.state)
        )
        with self.reading() as connection:
            waiting = connection.execute(new).scalar_one()
            return waiting, dict(connection.execute(states.where(decisions.c.state != "skipped")).all())

    def facts(self) -> list[Fact]:
        """Returns the last word on every model.

        Raises:
            StoreError: The database failed.
        """
        with self.reading() as connection:
            found = connection.execute(select(facts).order_by(facts.c.model, facts.c.kind)).mappings()
            return [Fact(**row) for row in found]

    def check(self) -> None:
        """Makes sure that the database answers.

        Raises:
            StoreError: It does not.
        """
        with self.reading() as connection:
            connection.execute(select(1))

    def forget(self, before: float, most: int = 1000) -> int:
        """Deletes alerts that were last seen before a moment, were decided, and started nothing.

        Args:
            before: Seconds since the epoch.
            most: How many at most, so that nobody waits long for the write lock.

        Returns:
            How many were deleted.

        Raises:
            StoreError: The database failed; nothing was deleted.
        """
        did_something = exists().where(decisions.c.alert_id == alerts.c.id, decisions.c.state != "skipped")
        # An alert was received no later than it was last seen, and there is an index by `received`.
        old = (
            select(alerts.c.id)
            .where(alerts.c.received < before, alerts.c.last_seen < before, alerts.c.state == "decided")
            .where(~did_something)
            .limit(most)
        )
        with self.writing() as connection:
            keys = list(connection.execute(old).scalars())
            if keys:
                connection.execute(delete(decisions).where(decisions.c.alert_id.in_(keys)))
                connection.execute(delete(alerts).where(alerts.c.id.in_(keys)))
        return len(keys)

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


def _reason(error: SQLAlchemyError) -> str:
    text_of_it = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return text_of_it.strip().partition("\n")[0] or type(error).__name__


def _alert_row(key: str, incoming: Incoming, moment: float) -> dict[str, Any]:
    return {
        "id": key,
        "source": incoming.source,
        "fingerprint": incoming.fingerprint,
        "kind": incoming.kind,
        "title": incoming.title,
        "labels": dict(incoming.labels),
        "payload": dict(incoming.payload),
        "resolved": incoming.resolved,
        "received": moment,
        "last_seen": moment,
        "count": 1,
        "state": "new",
    }


def _latest(found: Iterable[Fact]) -> list[dict[str, Any]]:
    latest: dict[tuple[str, str], Fact] = {}
    for fact in found:
        known = latest.get((fact.model, fact.kind))
        if known is None or known.time <= fact.time:
            latest[fact.model, fact.kind] = fact
    return [
        {"model": one.model, "kind": one.kind, "version": one.version, "data": dict(one.data), "time": one.time}
        for _, one in sorted(latest.items())
    ]


def _newest(query: Select[Any], table: Any, limit: int) -> Select[Any]:
    return query.order_by(table.c.received.desc(), table.c.id).limit(limit)


def _with_decisions(connection: Connection, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_alert: dict[str, list[dict[str, Any]]] = {one["id"]: [] for one in found}
    query = select(decisions).where(decisions.c.alert_id.in_(list(by_alert))).order_by(decisions.c.id)
    for row in connection.execute(query).mappings():
        by_alert[row["alert_id"]].append(_told(row))
    return [{**one, "decisions": by_alert[one["id"]]} for one in found]


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items() if name not in ("claimed_by", "claimed_until")}
