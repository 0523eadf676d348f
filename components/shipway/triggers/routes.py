"""The routes file: who may send what, and which alert starts what."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shipway.errors import InputError
from shipway.platforms.pipelines import PIPELINES, Target
from shipway.spec.load import load_file
from shipway.spec.resources import (
    FORMS,
    Duration,
    EnvironmentName,
    Memory,
    PlatformPart,
    duration_seconds,
    memory_bytes,
)
from shipway.spec.watch import Names
from shipway.triggers.expression import expression
from shipway.triggers.incoming import Kind

_NAME = r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$"
_RATE = r"^[1-9][0-9]{0,8}/(s|m|h)$"
_HOURS = r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$"
_SETTING = r"^[A-Za-z_]\w*(\.\w+)+$"
FORMS.update(
    {
        _NAME: "lower-case letters, digits, - and _, at most 64",
        _RATE: "a number a second, minute or hour, as 100/s",
        _HOURS: "hours of a day, as 22:00-06:00",
        _SETTING: "SECTION.KEY, as split.until",
    }
)


def _checked_expression(text: str) -> str:
    try:
        expression(text)
    except InputError as error:
        raise ValueError(str(error)) from error
    return text


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"expected a time zone, as Europe/Berlin, found {name!r}") from error
    return name


def _checked_pattern(text: str) -> str:
    if is_pattern(text):
        try:
            re.compile(text[1:-1])
        except re.error as error:
            raise ValueError(f"expected a regular expression between slashes, found {text!r}: {error}") from error
    return text


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def is_pattern(text: str) -> bool:
    """Tells whether a matcher is a regular expression, written between slashes."""
    return len(text) >= 2 and text.startswith("/") and text.endswith("/")


Name = Annotated[str, Field(pattern=_NAME)]
Query = Annotated[str, AfterValidator(_checked_expression)]
Value = bool | int | float | Query
Zone = Annotated[str, AfterValidator(_checked_zone)]
Matcher = Annotated[
    list[Annotated[str, AfterValidator(_checked_pattern)]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1),
]
Hours = Annotated[str, Field(pattern=_HOURS)]
Deed = Literal["rollback", "halt", "alert"]


class Auth(PlatformPart):
    """How a caller shows who it is; each names a secret: an environment variable, or a file in $SHIPWAY_SECRETS."""

    bearer: EnvironmentName | None = Field(None, description="A token in the header Authorization.")
    hmac: EnvironmentName | None = Field(
        None, description="Key of an HMAC-SHA256 over timestamp and body, against forgery and replay."
    )
    github: EnvironmentName | None = Field(None, description="GitHub's webhook secret (X-Hub-Signature-256).")

    @model_validator(mode="after")
    def _is_one(self) -> Auth:
        given = [name for name in ("bearer", "hmac", "github") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"expected one of bearer, hmac and github, found {', '.join(given) or 'none'}")
        return self


class Source(PlatformPart):
    """Whoever calls `POST /hooks/NAME`, and what language it speaks."""

    kind: Literal["alertmanager", "cloudevents", "github", "json"]
    auth: Auth | None = Field(None, description="null only where the service listens on loopback.")
    event: Kind | None = Field(
        None, description="json: what its events are; default: request. cloudevents: default: by the event's type."
    )
    fingerprint: Query | None = Field(
        None, description="json: JMESPath of what is the same for the same event; default: the whole body's digest."
    )
    title: Query | None = Field(None, description="json: JMESPath of the line that people read.")
    labels: dict[str, Query] = Field(
        default_factory=dict, description="Label -> JMESPath of its value, over those that the kind gives itself."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Source:
        own = [name for name in ("fingerprint", "title") if getattr(self, name)]
        if own and self.kind != "json":
            raise ValueError(f"{own[0]}: belongs to kind json; {self.kind} has its own")
        if self.event and self.kind not in ("json", "cloudevents"):
            raise ValueError(f"event: belongs to kinds json and cloudevents; {self.kind} has its own")
        if self.auth and self.auth.github and self.kind != "github":
            raise ValueError("auth.github: belongs to kind github; expected bearer or hmac")
        return self


class Readers(PlatformPart):
    """Who may read `/alerts`, `/runs` and the page; on loopback anybody may."""

    bearer: EnvironmentName | None = Field(None, description="Names the secret with the token.")


class Limits(PlatformPart):
    """What a caller may do at most, and how long alerts are kept."""

    body: Memory = Field("1Mi", description="Size of a request's body.")
    rate: Annotated[str, Field(pattern=_RATE)] = Field("2000/s", description="Requests of one source.")
    depth: int = Field(64, ge=4, le=200, description="Levels of nesting in a body.")
    skew: Duration = Field("5m", description="How old, or how far ahead, a signed timestamp may be.")
    keep: Duration = Field("90d", description="How long alerts that started nothing are kept; others stay.")

    @property
    def body_bytes(self) -> int:
        """The greatest body, in bytes."""
        return memory_bytes(self.body)

    @property
    def rate_per_second(self) -> float:
        """Requests of one source a second."""
        count, _, unit = self.rate.partition("/")
        return int(count) / {"s": 1, "m": 60, "h": 3600}[unit]

    @property
    def skew_seconds(self) -> int:
        """How far a signed timestamp may be off, in seconds."""
        return duration_seconds(self.skew)

    @property
    def keep_seconds(self) -> int:
        """How long alerts that started nothing are kept, in seconds."""
        return duration_seconds(self.keep)


class Runnable(PlatformPart):
    """A spec that routes start pipelines of, and where they run."""

    spec: Annotated[Path, BeforeValidator(_as_path)] = Field(description="The spec file, relative to the routes file.")
    target: Target = Field("local", description="local, kubeflow or vertex.")
    repository: str | None = Field(None, description="What stands before an image's name; default: shipway.")
    tag: str | None = Field(None, description="The images' tag; default: this version's.")
    images: Annotated[Path | None, BeforeValidator(_as_path)] = Field(
        None, description="JSON of image -> full name with digest, relative to the routes file."
    )
    runs: Annotated[Path, BeforeValidator(_as_path)] = Field(
        Path("runs"), description="local: folder that gets a folder a run, relative to where the service was started."
    )


class On(PlatformPart):
    """Which alerts a route is for: all of its conditions have to hold."""

    source: Names = Field(default_factory=list, description="Names of sources; default: every one.")
    kind: Annotated[list[Kind], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        default_factory=list, description="alert, data, code or request; default: any."
    )
    labels: dict[str, Matcher] = Field(
        default_factory=dict,
        description="Label -> its value, a list of values, or /a regular expression/ for all of it; "
        "a label that is not there is empty.",
    )


class Paths(PlatformPart):
    """Code events: which changed files count; the route is for a push that changes one that is left."""

    only: list[str] = Field(default_factory=list, description="Globs, as components/**; default: every file.")
    ignore: list[str] = Field(default_factory=list, description="Globs of files that count for nothing, as docs/**.")
    changed: Query | None = Field(
        None, description="JMESPath of the list of changed files; default: a GitHub push's commits."
    )


class Start(PlatformPart):
    """The run that a route starts."""

    spec: str = Field(description="A name in `specs`.")
    pipeline: str = "training"
    set: dict[Annotated[str, Field(pattern=_SETTING)], Value] = Field(
        default_factory=dict,
        description="Setting -> number, truth value, or JMESPath of the payload; text of your own as \"'2014-01-01'\".",
    )
    source: Query | None = Field(None, description="JMESPath of the URI of the rows, instead of the spec's.")
    within: Names = Field(
        default_factory=list, description="What that URI has to begin with, as s3://bucket/rows/; one of them."
    )
    parameters: dict[str, Value] = Field(
        default_factory=dict, description="The pipeline's parameters, given as those of `set`."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Start:
        if self.pipeline not in PIPELINES:
            raise ValueError(f"pipeline: expected {', '.join(PIPELINES)}, found {self.pipeline!r}")
        pipeline = PIPELINES[self.pipeline]
        if unknown := [name for name in self.parameters if name not in pipeline.given]:
            known = ", ".join(pipeline.given) or "none"
            raise ValueError(f"parameters.{unknown[0]}: pipeline {self.pipeline} takes {known}")
        if self.source and not pipeline.reads_data:
            raise ValueError(f"source: pipeline {self.pipeline} reads no rows")
        if self.source and not expression(self.source).is_literal and not self.within:
            raise ValueError(
                "within: required with a source that comes out of a payload: what its URI has to begin with, "
                "as s3://bucket/rows/"
            )
        for prefix in self.within:
            if "/" not in prefix.partition("://")[2] and "://" in prefix:
                raise ValueError(f"within: {prefix} is the beginning of other names too; expected {prefix}/")
        return self


class Route(PlatformPart):
    """What follows from an alert."""

    name: Name
    on: On
    paths: Paths | None = None
    start: Start | None = Field(None, description="The run that it starts; or `do`.")
    do: Deed | None = Field(
        None,
        description="rollback: production back to the version before; halt: end the rollout that is under way; "
        "alert: tell people, as the spec's section notify says.",
    )
    spec: str | None = Field(None, description="With `do`: a name in `specs`.")
    unchanged: Literal["skip", "start"] | None = Field(
        None,
        description="What happens when the rows are those of the last run that was started; default: skip for data "
        "events, start for others.",
    )
    cooldown: Duration | None = Field(None, description="After a start, nothing for this long.")
    debounce: Duration | None = Field(
        None, description="Wait until nothing more has come for this long (ten times this at most); the last counts."
    )
    quota: int | None = Field(None, ge=1, description="How many starts in any 24 hours.")
    concurrent: int | None = Field(None, ge=1, description="How many of its runs at once; others wait.")
    quiet: list[Hours] = Field(default_factory=list, description="Hours in which it waits, as 22:00-06:00.")
    timezone: Zone = Field("UTC", description="Of `quiet`.")

    @model_validator(mode="after")
    def _fits_together(self) -> Route:
        if (self.start is None) == (self.do is None):
            raise ValueError(f"expected one of start and do, found {'both' if self.start else 'none'}")
        if self.do and not self.spec:
            raise ValueError(f"spec: required with do: {self.do}: a name in specs")
        if self.start and self.spec:
            raise ValueError("spec: belongs to do; a start has its own (start.spec)")
        if self.unchanged and not (self.start and PIPELINES[self.start.pipeline].reads_data):
            raise ValueError("unchanged: belongs to the start of a pipeline that reads rows")
        if self.quiet:
            # A machine without a database of time zones does not know UTC either.
            _checked_zone(self.timezone)
        return self

    @property
    def runnable(self) -> str:
        """The name of its spec in `specs`."""
        return self.start.spec if self.start else str(self.spec)

    def seconds(self, setting: Literal["cooldown", "debounce"]) -> int:
        """Returns a duration of the route in seconds, 0 for none."""
        duration = getattr(self, setting)
        return duration_seconds(duration) if duration else 0

    def quiet_until(self, moment: float) -> float | None:
        """Returns when the quiet hours end that a moment is in (seconds since the epoch), or None outside of them."""
        if not self.quiet:
            return None
        zone = ZoneInfo(self.timezone)
        here = dt.datetime.fromtimestamp(moment, zone)
        ends = []
        for hours in self.quiet:
            begin, end = (dt.time.fromisoformat(part) for part in hours.split("-"))
            inside = begin <= here.time() < end if begin < end else here.time() >= begin or here.time() < end
            if inside:
                day = here.date() + dt.timedelta(days=1 if begin >= end and here.time() >= begin else 0)
                ends.append(dt.datetime.combine(day, end, zone).timestamp())
        return max(ends, default=None)


class Routes(PlatformPart):
    """The routes file."""

    sources: dict[Name, Source] = Field(min_length=1)
    readers: Readers = Field(default_factory=lambda: Readers(bearer=None))
    limits: Limits = Field(default_factory=lambda: Limits(body="1Mi", rate="2000/s"))
    specs: dict[Name, Runnable] = Field(default_factory=dict)
    routes: list[Route] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_together(self) -> Routes:
        faults = []
        names: set[str] = set()
        for index, route in enumerate(self.routes):
            where = f"routes.{index}"
            if route.name in names:
                faults.append(f"{where}.name: there are two routes {route.name!r}; a run's key is made of it")
            names.add(route.name)
            for source in route.on.source:
                if source not in self.sources:
                    faults.append(f"{where}.on.source: no source {source!r}; there are {', '.join(self.sources)}")
            if route.runnable not in self.specs:
                place = "start.spec" if route.start else "spec"
                known = ", ".join(self.specs) or "none"
                faults.append(f"{where}.{place}: no spec {route.runnable!r} in specs; there are {known}")
        if faults:
            raise ValueError("\n".join(faults))
        return self


def load_routes(path: str | Path) -> Routes:
    """Reads and checks a routes file.

    Args:
        path: The YAML file; paths in it are relative to its folder.

    Raises:
        InputError: It is missing or unreadable, or a spec that it names is.
        SpecError: It is not valid; every fault is listed with its line and path.
    """
    file = Path(path)
    read = load_file(file, Routes, "routes")
    specs = {}
    for name, entry in read.specs.items():
        spec = (file.absolute().parent / entry.spec).resolve()
        if not spec.is_file():
            raise InputError(f"{file}: specs.{name}.spec: no such file: {spec}")
        images = file.absolute().parent / entry.images if entry.images else None
        specs[name] = entry.model_copy(update={"spec": spec, "images": images, "runs": entry.runs.absolute()})
    return read.model_copy(update={"specs": specs})
