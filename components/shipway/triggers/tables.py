"""The trigger service's tables, the same in SQLite and PostgreSQL.

Times are seconds since the epoch. A row of `alerts` is an event that was stored before it was acknowledged; a row of
`decisions` is what a route made of it; `facts` is the last word on a model: its check, the version that is live.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

metadata = MetaData()

alerts = Table(
    "alerts",
    metadata,
    # Made of source and fingerprint, see `store.alert_id`: known before the row is written.
    Column("id", String(32), primary_key=True),
    Column("source", String(128), nullable=False),
    Column("fingerprint", String(256), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("resolved", Boolean, nullable=False),
    Column("received", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    # How often it was delivered.
    Column("count", Integer, nullable=False),
    # new | decided
    Column("state", String(16), nullable=False),
    UniqueConstraint("source", "fingerprint", name="alerts_once"),
)
Index("alerts_by_time", alerts.c.received)
# The queue of those that nobody has looked at is short, however many alerts there are.
is_new = alerts.c.state == literal_column("'new'")
"""Of those alone there is an index, which SQLite uses where the condition is written out like this."""
Index("alerts_new", alerts.c.received, sqlite_where=is_new, postgresql_where=is_new)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("alert_id", String(32), ForeignKey("alerts.id"), nullable=False),
    Column("route", String(128), nullable=False),
    Column("key", String(64), nullable=False, unique=True),
    Column("action", JSON, nullable=False),
    # waiting | starting | started | succeeded | failed | skipped | done
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("due", Double, nullable=False),
    Column("claimed_by", String(128), nullable=False, default=""),
    Column("claimed_until", Double, nullable=False, default=0.0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("run_name", Text, nullable=False, default=""),
    Column("run_link", Text, nullable=False, default=""),
    # What the rows were that its run was started on; "" for none.
    Column("data_version", Text, nullable=False, default=""),
    # When its run or deed was begun; 0 before.
    Column("begun", Double, nullable=False, default=0.0),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
)
Index("decisions_by_state", decisions.c.state, decisions.c.due)
Index("decisions_by_route", decisions.c.route, decisions.c.created)
Index("decisions_by_alert", decisions.c.alert_id)
Index("decisions_by_time", decisions.c.created)

facts = Table(
    "facts",
    metadata,
    Column("model", String(128), primary_key=True),
    # check: the last check's figures; live: the version that is live; baseline VERSION: its figures when it went live
    Column("kind", String(160), primary_key=True),
    Column("version", String(128), nullable=False),
    Column("data", JSON, nullable=False),
    Column("time", Double, nullable=False),
)
