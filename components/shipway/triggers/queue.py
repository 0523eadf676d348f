"""The engine's side of the store: alerts become decisions, decisions are claimed, and what came of them is written.

Each step is one transaction, so that a process that dies leaves either the step before or the step after. A claim ends
by itself: whoever died leaves its work to the next.
"""

import os
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, literal_column, select, text, update

from shipway.triggers.decide import DAY, Decision, History, Verdict, admit, debounced_until, decide
from shipway.triggers.incoming import Incoming
from shipway.triggers.routes import Route, Routes
from shipway.triggers.store import MOMENT, Store
from shipway.triggers.tables import alerts, decisions, is_new

LEASE_SECONDS = 6.0
BATCH = 500
_HELD = 20
_OPEN = ("waiting", "starting", "started")
_BUSY = ("starting", "started")
# All that decide or admit take turns, replicas too; any number will do so long as all know the same.
_TURN = 0x5417_7A16


@dataclass(frozen=True, slots=True)
class Task:
    """A decision that this process has claimed.

    Attributes:
        id: The decision's id.
        key: The run's key.
        route: The route's name.
        state: `starting` (do it) or `started` (look how its run stands).
        action: What to do.
        attempts: How often it was begun, this time included.
        run_name: The run's name, once there is one.
        begun: When it was first begun, in seconds since the epoch.
        last_data: The rows of the last run of the same spec and pipeline; "" for none.
    """

    id: int
    key: str
    route: str
    state: str
    action: Mapping[str, Any]
    attempts: int
    run_name: str
    begun: float
    last_data: str = ""


class Queue:
    """What there is to do, in a store.

    Args:
        store: The store.
        routes: The routes.
        lease_seconds: How long a claim holds unless it is renewed.
    """

    def __init__(self, store: Store, routes: Routes, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store, self._routes = store, routes
        self._by_name = {route.name: route for route in routes.routes}
        self._lease = lease_seconds
        self._me = f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def decide(self, now: float) -> Counter[tuple[str, str]]:
        """Decides about the oldest alerts that nobody has decided about.

        Args:
            now: Seconds since the epoch.

        Returns:
            How many decisions there were, by route and state; empty when there was nothing to decide.

        Raises:
            StoreError: The database failed; nothing was decided.
        """
        with self._store.reading() as connection:
            # A short look first: the write lock is the intake's as long as there is nothing to do.
            if (
                connection.execute(select(literal_column("1")).select_from(alerts).where(is_new).limit(1)).first()
                is None
            ):
                return Counter()
        with self._turn() as connection:
            found = select(alerts).where(is_new).order_by(alerts.c.received).limit(BATCH)
            rows: list[dict[str, Any]] = []
            ids: list[str] = []
            # Payloads may be large: a few are held at a time.
            for row in connection.execute(found, execution_options={"yield_per": _HELD}):
                ids.append(row.id)
                for decision in decide(_incoming(row), self._routes, now):
                    rows.append(self._row(decision, row.id, now + len(rows) * MOMENT))
            for name in {row["route"] for row in rows if row["state"] == "waiting"}:
                if self._by_name[name].debounce:
                    self._debounce(connection, self._by_name[name], rows, now)
            if rows:
                statement = self._store.insert(decisions).on_conflict_do_nothing(index_elements=[decisions.c.key])
                connection.execute(statement, rows)
            connection.execute(update(alerts).where(alerts.c.id.in_(ids)).values(state="decided"))
        return Counter((row["route"], row["state"]) for row in rows)

    def claim(self, now: float) -> tuple[Task | None, bool]:
        """Claims the next decision that is due.

        Args:
            now: Seconds since the epoch.

        Returns:
            The task, or None; and whether there may be more to claim.

        Raises:
            StoreError: The database failed; nothing was claimed.
        """
        due = and_(decisions.c.state.in_(_OPEN), decisions.c.due <= now, decisions.c.claimed_until < now)
        query = select(decisions).where(due).order_by(decisions.c.due, decisions.c.id).limit(1)
        with self._store.reading() as connection:
            if connection.execute(query).first() is None:
                return None, False
        with self._turn() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None, False
            route = self._by_name.get(row.route)
            if row.state == "waiting":
                verdict = self._verdict(connection, row, route, now)
                if verdict.kind != "go":
                    self._hold(connection, row, verdict, now)
                    return None, True
            return self._take(connection, row, route, now), True

    def renew(self, ids: Sequence[int], now: float) -> None:
        """Keeps claims from ending.

        Args:
            ids: Decisions that this process has claimed.
            now: Seconds since the epoch.

        Raises:
            StoreError: The database failed.
        """
        mine = and_(decisions.c.id.in_(ids), decisions.c.claimed_by == self._me)
        with self._store.writing() as connection:
            connection.execute(update(decisions).where(mine).values(claimed_until=now + self._lease))

    def settle(self, task: Task, now: float, **values: Any) -> bool:
        """Writes what came of a task and gives it back.

        Args:
            task: The task.
            now: Seconds since the epoch.
            **values: Columns of `decisions`.

        Returns:
            Whether the task was still this process's; if not, whoever has it now writes what comes of it.

        Raises:
            StoreError: The database failed; the claim ends by itself.
        """
        mine = and_(decisions.c.id == task.id, decisions.c.claimed_by == self._me)
        given_back = {"claimed_by": "", "claimed_until": 0.0, "updated": now}
        with self._store.writing() as connection:
            written = connection.execute(update(decisions).where(mine).values(**given_back, **values))
            return written.rowcount == 1

    def _row(self, decision: Decision, alert: str, now: float) -> dict[str, Any]:
        return {
            "alert_id": alert,
            "route": decision.route,
            "key": decision.key,
            "action": decision.action,
            "state": decision.state,
            "reason": decision.reason,
            "due": decision.due,
            "claimed_by": "",
            "claimed_until": 0.0,
            "attempts": 0,
            "run_name": "",
            "run_link": "",
            "data_version": "",
            "begun": 0.0,
            "created": now,
            "updated": now,
        }

    def _debounce(self, connection: Connection, route: Route, rows: list[dict[str, Any]], now: float) -> None:
        """Lets the last alert of a route stand for those before it that still wait."""
        waiting = and_(decisions.c.route == route.name, decisions.c.state == "waiting")
        before = connection.execute(
            select(decisions.c.id, decisions.c.action, decisions.c.created).where(waiting)
        ).all()
        *earlier, last = [row for row in rows if row["route"] == route.name and row["state"] == "waiting"]
        reason = f"debounce: alert {last['alert_id']} came within {route.debounce} and stands for it"
        for row in earlier:
            row.update(state="skipped", reason=reason)
        if before:
            ids = [row.id for row in before]
            connection.execute(
                update(decisions).where(decisions.c.id.in_(ids)).values(state="skipped", reason=reason, updated=now)
            )
        since = min((row.action.get("since", row.created) for row in before), default=now)
        last.update(action={**last["action"], "since": since}, due=debounced_until(route, since, now))

    def _verdict(self, connection: Connection, row: Row[Any], route: Route | None, now: float) -> Verdict:
        if route is None:
            return Verdict("skip", f"route {row.route!r} is no longer in the routes file")
        return admit(route, self._history(connection, route, now), now)

    def _history(self, connection: Connection, route: Route, now: float) -> History:
        own = decisions.c.route == route.name
        last = connection.execute(select(func.max(decisions.c.begun)).where(own)).scalar_one()
        today = connection.execute(select(decisions.c.begun).where(own, decisions.c.begun > now - DAY))
        running = select(func.count()).select_from(decisions).where(own, decisions.c.state.in_(_BUSY))
        alike = decisions.c.route.in_(self._alike(route))
        starting = select(decisions.c.id).where(alike, decisions.c.state == "starting").limit(1)
        return History(
            last_begun=last or 0.0,
            today=list(today.scalars()),
            running=connection.execute(running).scalar_one(),
            starting=connection.execute(starting).first() is not None,
        )

    def _alike(self, route: Route) -> list[str]:
        """Returns the routes that start the same pipeline of the same spec."""
        if route.start is None:
            return [route.name]
        wanted = (route.start.spec, route.start.pipeline)
        return [
            other.name
            for other in self._routes.routes
            if other.start and (other.start.spec, other.start.pipeline) == wanted
        ]

    def _hold(self, connection: Connection, row: Row[Any], verdict: Verdict, now: float) -> None:
        """Holds a route back: what is said of one decision that is due holds for all of them, however many wait."""
        alike = and_(decisions.c.route == row.route, decisions.c.state == "waiting", decisions.c.due <= now)
        values = {"reason": verdict.reason, "updated": now}
        values |= {"state": "skipped"} if verdict.kind == "skip" else {"due": verdict.until}
        connection.execute(update(decisions).where(alike).values(**values))

    def _take(self, connection: Connection, row: Row[Any], route: Route | None, now: float) -> Task:
        values: dict[str, Any] = {"claimed_by": self._me, "claimed_until": now + self._lease, "updated": now}
        state = row.state
        if state == "waiting":
            state = "starting"
            values |= {"state": state, "begun": now, "reason": "is being started"}
        attempts = row.attempts + (state == "starting")
        connection.execute(update(decisions).where(decisions.c.id == row.id).values(attempts=attempts, **values))
        last = self._last_data(connection, route, row.id) if route and state == "starting" else ""
        return Task(
            row.id,
            row.key,
            row.route,
            state,
            row.action,
            attempts,
            row.run_name,
            values.get("begun", row.begun),
            last_data=last,
        )

    def _last_data(self, connection: Connection, route: Route, but: int) -> str:
        known = and_(
            decisions.c.route.in_(self._alike(route)),
            decisions.c.data_version != "",
            decisions.c.state.in_(("started", "succeeded", "failed")),
            decisions.c.id != but,
        )
        query = select(decisions.c.data_version).where(known).order_by(decisions.c.begun.desc()).limit(1)
        return connection.execute(query).scalar() or ""

    @contextmanager
    def _turn(self) -> Iterator[Connection]:
        """A writing transaction of which there is one at a time: what it has read still holds when it writes."""
        with self._store.writing() as connection:
            if self._store.dialect == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _TURN})
            yield connection


def _incoming(row: Row[Any]) -> Incoming:
    return Incoming(row.source, row.kind, row.fingerprint, row.labels, row.payload, row.title, row.resolved)
