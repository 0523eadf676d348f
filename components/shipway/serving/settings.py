"""How a server process is set up: the command line, then the environment.

Vertex sets AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE and AIP_STORAGE_URI; they fill in what the command line
leaves open, as does SHIPWAY_OPTION for the options that say so in `--help`. The token for administration comes from a
file or from SHIPWAY_SERVING_TOKEN, never from the command line, which every user of the machine can read.
"""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shipway.errors import InputError
from shipway.lineage.documents import Blessing
from shipway.serving.admin import REVISION, VERSION, MirrorBody, RevisionBody, fault_text
from shipway.serving.app import AppSettings
from shipway.serving.isolated import WorkerSettings
from shipway.serving.limits import MIB, Limits
from shipway.serving.router import RouterSettings
from shipway.serving.sticky import Sticky
from shipway.spec.resources import Duration, duration_seconds

TOKEN_VARIABLE = "SHIPWAY_SERVING_TOKEN"  # noqa: S105 - the variable's name, not its value
HOST_VARIABLE = "SHIPWAY_SERVING_HOST"
AccessLevel = Literal["off", "errors", "all"]
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_TRUE = ("1", "true", "yes")
_FALSE = ("", "0", "false", "no")


class TableRevision(RevisionBody):
    """A revision of a table, with its id."""

    id: str = Field(pattern=rf"^{REVISION}$")


class Table(BaseModel):
    """What a server starts with.

    Attributes:
        revisions: The revisions, in the order they were put there.
        shares: Revision -> percent; {} while nothing is served.
        mirror: What is mirrored to; None for nothing.
    """

    model_config = ConfigDict(extra="forbid")

    revisions: list[TableRevision]
    shares: dict[str, int] = Field(default_factory=dict)
    mirror: MirrorBody | None = None


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The prediction log.

    Attributes:
        uri: Its folder or fsspec URI; "" for none.
        share: Share of the requests that are logged.
        keep_seconds: How long it is kept; 0 for ever.
    """

    uri: str = ""
    share: float = 1.0
    keep_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FlagSettings:
    """An OpenFeature flag; see `flags`."""

    flag: str
    provider: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """A server process.

    Attributes:
        package: The package's folder, or an fsspec URI of it; "" where a table says what is served.
        table: What it starts with; None for the one package.
        name: The model's name in URLs; "" takes the package's own.
        version: The version told to callers; "" takes the beginning of the digest.
        digest: The digest that the package must have; None trusts the bytes.
        revision: The revision's id; "" makes one of version and digest.
        blessing: The gate's verdict on the package; None where there is none.
        host: The address to listen on.
        port: The port; 0 takes any.
        prefer_port: With port 0: the port to take when it is free; 0 for none.
        state_file: Where the process holds its claim; None for none.
        app: The application's settings.
        router: How revisions are held.
        sticky: How a caller is known; None for not at all.
        flag: The flag that may name a request's version; None for none.
        log: The prediction log.
        access_log: Which requests are written to the access log.
        control: Where the control document lies; "" for nowhere.
    """

    package: str
    name: str
    version: str
    digest: str | None
    host: str
    port: int
    prefer_port: int
    state_file: Path | None
    app: AppSettings
    table: Table | None = None
    revision: str = ""
    blessing: Blessing | None = None
    router: RouterSettings = field(default_factory=RouterSettings)
    sticky: Sticky | None = None
    flag: FlagSettings | None = None
    log: LogSettings = field(default_factory=LogSettings)
    access_log: AccessLevel = "off"
    control: str = ""


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> ServerSettings:
    """Reads the command line and the environment.

    Raises:
        InputError: A value cannot work.
        SystemExit: The command line is malformed, or asks for help.
    """
    # A container answers its network.
    address = "0.0.0.0" if "AIP_HTTP_PORT" in environment else "127.0.0.1"  # noqa: S104
    options = _parser(environment).parse_args(arguments)
    package = options.package or environment.get("AIP_STORAGE_URI", "")
    table = _table(options.table) if options.table else None
    if table is not None and options.package:
        raise InputError("--table and --package: expected one of them")
    if table is None and not package:
        raise InputError("--package: expected the folder of a model package (or AIP_STORAGE_URI)")
    if table is not None and not options.name:
        raise InputError("--table needs --name: the model's name in URLs")
    for flag, value, pattern in (
        ("--name", options.name, _NAME),
        ("--version", options.version, VERSION),
        ("--revision", options.revision, REVISION),
    ):
        if value and not re.fullmatch(pattern, value):
            raise InputError(f"{flag}: expected letters, digits, dots, dashes and underscores, found {value!r}")
    return ServerSettings(
        package="" if table is not None else package,
        table=table,
        name=options.name,
        version=options.version,
        digest=options.digest or None,
        revision=options.revision,
        blessing=_blessing(options.blessing),
        host=options.host or environment.get(HOST_VARIABLE) or address,
        port=_port(options.port, environment),
        prefer_port=options.prefer_port,
        state_file=options.state_file,
        app=AppSettings(
            limits=Limits(
                body_bytes=options.max_body_bytes, rows=options.max_rows, body_seconds=options.max_body_seconds
            ),
            token=_token(options.token_file, environment),
            instance=options.instance,
            health_route=_route(environment, "AIP_HEALTH_ROUTE"),
            predict_route=_route(environment, "AIP_PREDICT_ROUTE"),
        ),
        router=RouterSettings(
            allow_unblessed=_switch(options.allow_unblessed, environment),
            edges=_edges(options.edges),
            worker=WorkerSettings(answer_seconds=_positive("--worker-seconds", options.worker_seconds)),
        ),
        sticky=Sticky(options.sticky) if options.sticky else None,
        flag=_flag(options.flag, options.flag_provider, options.flag_attribute, environment),
        log=LogSettings(options.log_uri, _share(options.log_share), _seconds(options.log_keep)),
        access_log=_access(options.access_log),
        control=options.control,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    def variable(option: str) -> str:
        return environment.get("SHIPWAY_" + option.upper().replace("-", "_"), "").strip()

    parser = argparse.ArgumentParser(prog="python -m shipway.serving", description="Serves a model package over HTTP.")
    add = parser.add_argument
    add("--package", default="", help="folder or fsspec URI of the package (else AIP_STORAGE_URI)")
    add("--table", type=Path, default=None, help="JSON file of revisions and shares to start with, for --package")
    add("--name", default="", help="the model's name in URLs (else the package's own)")
    for option, default, text in (
        ("version", "", "the version told to callers (else from the digest)"),
        ("digest", "", "refuse the package unless it has this digest (else the blessing's)"),
        ("revision", "", "the revision's id (else from version and digest)"),
        ("blessing", "", "the gate's verdict: JSON, or a file of it; without one nothing is loaded"),
        ("edges", "", "regression: inner edges of the prediction histogram, with commas between"),
        ("sticky", "", "header:NAME, parameter:NAME or column:NAME: equal values get one revision"),
        ("flag", "", "OpenFeature flag (text) whose value names a request's version"),
        ("flag-provider", "", "MODULE:FUNCTION or FILE.py:FUNCTION that returns an OpenFeature provider"),
        ("log-uri", "", "folder or fsspec URI of the prediction log"),
        ("log-share", "1", "share of the requests that are logged"),
        ("log-keep", "", "how long the prediction log is kept, as 7d (else for ever)"),
        ("access-log", "off", "off, errors or all: JSON lines on standard error"),
        ("control", "", "path or fsspec URI of a document that says where requests are mirrored to"),
    ):
        name = "SHIPWAY_" + option.upper().replace("-", "_")
        add(f"--{option}", default=variable(option) or default, help=f"{text} [{name}]")
    add("--flag-attribute", action="append", default=None, help="request header for the flag provider; may be repeated")
    add("--allow-unblessed", action="store_true", help="load without a blessing [SHIPWAY_ALLOW_UNBLESSED=1]")
    add("--worker-seconds", type=float, default=10.0, help="how long a revision's own process may take to answer (10)")
    add("--host", default="", help=f"address to listen on (else {HOST_VARIABLE}, else 127.0.0.1)")
    add("--port", type=int, default=None, help="port, 0 for any (else AIP_HTTP_PORT, else 8080)")
    add("--prefer-port", type=int, default=0, help="with --port 0: the port to take when it is free")
    add("--token-file", type=Path, default=None, help=f"bearer token (else {TOKEN_VARIABLE}, else none)")
    add("--state-file", type=Path, default=None, help="file to lock and to announce pid and port in")
    add("--instance", default="", help="an id of this process, told at /v2")
    add("--max-body-bytes", type=int, default=8 * MIB, help="largest request body (8 MiB)")
    add("--max-body-seconds", type=float, default=30.0, help="longest time to send a body (30 s)")
    add("--max-rows", type=int, default=10_000, help="most rows a request (10,000)")
    return parser


def _table(path: Path) -> Table:
    try:
        table = Table.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"--table: cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"--table: {path}: {fault_text(error)}") from error
    ids = {revision.id for revision in table.revisions}
    named = {*table.shares, *([table.mirror.revision] if table.mirror else [])}
    if len(ids) != len(table.revisions) or named - ids:
        raise InputError(f"--table: {path}: ids must differ, and shares and mirror name them; unknown: {named - ids}")
    if table.shares and sum(table.shares.values()) not in (0, 100):
        raise InputError(f"--table: {path}: expected shares that add up to 100, found {table.shares}")
    return table


def _blessing(text: str) -> Blessing | None:
    if not text:
        return None
    where = "--blessing"
    if not text.startswith("{"):
        where = f"--blessing: {text}"
        try:
            text = Path(text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: expected JSON or a readable file of it: {error}") from error
    try:
        return Blessing.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where}: {fault_text(error)}") from error


def _switch(given: bool, environment: Mapping[str, str]) -> bool:
    text = environment.get("SHIPWAY_ALLOW_UNBLESSED", "").strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise InputError(f"SHIPWAY_ALLOW_UNBLESSED: expected 1 or 0, found {text!r}")
    return given or text in _TRUE


def _edges(text: str) -> tuple[float, ...]:
    try:
        edges = tuple(float(part) for part in text.strip("[]").split(",") if part.strip())
    except ValueError:
        edges = (math.nan,)
    if not all(math.isfinite(edge) for edge in edges) or list(edges) != sorted(set(edges)):
        raise InputError(f"--edges: expected ascending numbers with commas between, found {text!r}")
    return edges


def _flag(flag: str, provider: str, given: list[str] | None, environment: Mapping[str, str]) -> FlagSettings | None:
    if bool(flag) != bool(provider):
        raise InputError("--flag and --flag-provider belong together; one of them is missing")
    named = given if given is not None else environment.get("SHIPWAY_FLAG_ATTRIBUTE", "").split(",")
    attributes = tuple(name.strip() for name in named if name.strip())
    return FlagSettings(flag, provider, attributes) if flag else None


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise InputError(f"--log-share: expected a number from 0 to 1, found {text!r}")
    return share


def _seconds(text: str) -> float:
    if not text:
        return 0.0
    try:
        return float(duration_seconds(TypeAdapter(Duration).validate_python(text)))
    except ValidationError as error:
        raise InputError(f"--log-keep: expected a number and s, m, h or d, as 7d, found {text!r}") from error


def _access(text: str) -> AccessLevel:
    if text not in ("off", "errors", "all"):
        raise InputError(f"--access-log: expected off, errors or all, found {text!r}")
    return cast(AccessLevel, text)


def _positive(option: str, seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise InputError(f"{option}: expected seconds above 0, found {seconds:g}")
    return seconds


def _port(given: int | None, environment: Mapping[str, str]) -> int:
    text = str(given) if given is not None else environment.get("AIP_HTTP_PORT", "8080")
    if not text.isdigit() or int(text) > 65_535:
        raise InputError(f"port: expected 0 to 65535, found {text!r}")
    return int(text)


def _route(environment: Mapping[str, str], variable: str) -> str:
    route = environment.get(variable, "")
    if route and (not route.startswith("/") or "{" in route):
        raise InputError(f"{variable}: expected a path beginning with /, found {route!r}")
    return route


def _token(file: Path | None, environment: Mapping[str, str]) -> str:
    if file is None:
        return environment.get(TOKEN_VARIABLE, "").strip()
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise InputError(f"--token-file: cannot read {file}: {error.strerror}") from error
    if not token:
        raise InputError(f"--token-file: {file} is empty")
    return token
