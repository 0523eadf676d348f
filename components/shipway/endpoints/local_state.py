"""What a local endpoint is meant to serve, in a file that a killed process leaves whole.

The files of an endpoint lie below `<state folder>/endpoints/ENVIRONMENT`, which nobody else may read:

    NAME.json     what is meant to be served, the record, and the port (written atomically)
    NAME.table    the part of it that a server is started with
    NAME.server   the server's claim: locked while the process lives, with its pid and port inside (see `claim`)
    NAME.token    the bearer token for the server's administration
    NAME.lock     held by whoever changes something, so that two take turns
    NAME.log      what the server has to say

and, for all endpoints together, `<state folder>/endpoints/packages` with copies of the packages, by digest.
"""

import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import Release
from shipway.lineage.files import write_bytes
from shipway.lineage.locks import exclusive

ENVIRONMENTS = ("staging", "production")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_LOCK_SECONDS = 300.0
_PRIVATE = 0o600


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MeantRevision(_Part):
    """A revision that is meant to be there.

    Attributes:
        id: Its id.
        release: The blessed version.
        package: The folder with the copy of its package.
        isolated: Whether it has a process of its own.
        edges: Inner edges of the histogram of its predictions; empty: its package's own.
    """

    id: str
    release: Release
    package: str
    isolated: bool = False
    edges: list[float] = Field(default_factory=list)

    def order(self) -> dict[str, object]:
        """Returns what the server is told of it, without its id."""
        return {
            "path": self.package,
            "version": self.release.version,
            "digest": self.release.digest,
            "blessing": self.release.blessing.model_dump(mode="json"),
            "isolated": self.isolated,
            "edges": self.edges,
        }


class MeantMirror(_Part):
    """A revision that is meant to be mirrored to, and the percent of the requests."""

    revision: str
    percent: int


class EndpointState(_Part):
    """What is meant to be served.

    Attributes:
        schema_version: Of this file.
        generation: Changes with every change below it.
        revisions: Revisions, in the order they came.
        shares: Revision -> percent, only those above 0.
        mirror: What is mirrored to; None for nothing.
        record: The controller's.
        port: The port of the latest server; 0 before the first.
        options: The options that servers are started with.
        project: The project folder that a flag provider's file lies in.
        started: The options that the latest server was started with.
    """

    schema_version: int = 2
    generation: str = "0"
    revisions: list[MeantRevision] = Field(default_factory=list)
    shares: dict[str, int] = Field(default_factory=dict)
    mirror: MeantMirror | None = None
    record: str = ""
    port: int = 0
    options: list[str] = Field(default_factory=list)
    project: str = ""
    started: list[str] = Field(default_factory=list)

    def revision(self, revision: str) -> MeantRevision | None:
        """Returns a revision by id."""
        return next((found for found in self.revisions if found.id == revision), None)

    def changed(self, **update: object) -> "EndpointState":
        """Returns the state with a change and a generation that never was before."""
        number = int(self.generation.partition("-")[0]) + 1
        return self.model_copy(update={**update, "generation": f"{number}-{secrets.token_hex(4)}"})

    def with_revision(self, revision: MeantRevision) -> "EndpointState":
        """Returns the state with a revision put there, or put there anew."""
        others = [found for found in self.revisions if found.id != revision.id]
        return self.changed(revisions=[*others, revision])

    def without(self, revision: str) -> "EndpointState":
        """Returns the state without a revision; one that is left alone moves into the server's own process."""
        left = [found for found in self.revisions if found.id != revision]
        if len(left) == 1:
            left = [left[0].model_copy(update={"isolated": False})]
        mirror = None if self.mirror is not None and self.mirror.revision == revision else self.mirror
        return self.changed(revisions=left, mirror=mirror)

    def with_shares(self, shares: dict[str, int]) -> "EndpointState":
        """Returns the state with other shares; a revision with traffic is no longer mirrored to."""
        mirror = None if self.mirror is not None and self.mirror.revision in shares else self.mirror
        return self.changed(shares=shares, mirror=mirror)

    def traffic(self) -> dict[str, object]:
        """Returns what the server is told of shares and mirror."""
        return {"shares": self.shares, "mirror": self.mirror.model_dump() if self.mirror else None}

    def table(self) -> dict[str, object]:
        """Returns what a server is started with."""
        return {"revisions": [{"id": found.id, **found.order()} for found in self.revisions], **self.traffic()}


class EndpointFiles:
    """The files of one endpoint.

    Args:
        name: The model's name.
        environment: `staging` or `production`.
        state: The state folder, absolute.

    Raises:
        InputError: The name cannot be a file's, or there is no such environment.
    """

    def __init__(self, name: str, environment: str, state: Path) -> None:
        if not _NAME.fullmatch(name):
            raise InputError(f"endpoint {name!r}: expected lower-case letters, digits, dashes and underscores")
        if environment not in ENVIRONMENTS:
            raise InputError(f"endpoint {name}: environment {environment!r}, expected {' or '.join(ENVIRONMENTS)}")
        self.name = name
        self.environment = environment
        self.state = state
        self.folder = state / "endpoints" / environment
        self.claim = self._file("server")
        self.log = self._file("log")
        self.token_file = self._file("token")
        self.table = self._file("table")
        self._json = self._file("json")

    @property
    def what(self) -> str:
        """The endpoint, for messages."""
        return f"endpoint {self.name} ({self.environment})"

    def read(self) -> EndpointState:
        """Returns the state; an empty one where nothing ever was served.

        Raises:
            ShipwayError: The file is broken, or cannot be read.
        """
        try:
            text = self._json.read_text()
        except FileNotFoundError:
            return EndpointState()
        except OSError as error:
            raise ShipwayError(f"{self._json}: cannot read what {self.what} serves: {error.strerror}") from error
        try:
            return EndpointState.model_validate_json(text)
        except ValidationError as error:
            raise ShipwayError(
                f"{self._json}: does not say what {self.what} is meant to serve ({error.errors()[0]['msg']}); put the "
                "file back, or end the endpoint with `shipway down` and deploy anew"
            ) from error

    def write(self, state: EndpointState) -> None:
        """Writes the state.

        Raises:
            ShipwayError: It cannot be written; the one before still stands.
        """
        self._write(self._json, state.model_dump_json(indent=2) + "\n")

    def write_table(self, state: EndpointState) -> None:
        """Writes what a server is started with."""
        self._write(self.table, json.dumps(state.table(), indent=2) + "\n")

    def token(self) -> str:
        """Returns the token for the server's administration, made first where there is none."""
        if self.token_file.is_file() and (token := self.token_file.read_text().strip()):
            return token
        token = secrets.token_urlsafe(32)
        self._write(self.token_file, token)
        return token

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the endpoint's lock.

        Raises:
            InputError: The folder cannot be made.
            ShipwayError: Another process has held the lock for long.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder):
                folder.chmod(0o700)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot keep the endpoint's state there: {error.strerror}") from error
        with exclusive(self._file("lock"), _LOCK_SECONDS, self.what):
            yield

    def _write(self, path: Path, text: str) -> None:
        try:
            write_bytes(path, text.encode(), _PRIVATE)
        except OSError as error:
            raise ShipwayError(f"{path}: cannot keep the endpoint's state there: {error.strerror}") from error

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{kind}"


def endpoint_names(state: Path) -> list[tuple[str, str]]:
    """Returns name and environment of every endpoint that has a file in a state folder, by name."""
    found = {
        (path.stem, environment)
        for environment in ENVIRONMENTS
        for kind in ("json", "server")
        for path in (state / "endpoints" / environment).glob(f"*.{kind}")
        if _NAME.fullmatch(path.stem)
    }
    return sorted(found)


def used_digests(files: Iterable[EndpointFiles]) -> set[str]:
    """Returns the digests of the packages that some endpoints are meant to serve.

    Raises:
        ShipwayError: One of them does not say.
    """
    return {found.release.digest for each in files for found in each.read().revisions}


def checked_shares(shares: dict[str, int], known: Sequence[str], what: str) -> dict[str, int]:
    """Returns shares without those of 0.

    Raises:
        InputError: They do not add up to 100, or name what is not there.
    """
    for revision, percent in shares.items():
        if revision not in known:
            raise InputError(f"{what}: no revision {revision}; there are: {', '.join(known) or 'none'}")
        if percent < 0:
            raise InputError(f"{what}: revision {revision} cannot have {percent} % of the traffic")
    if sum(shares.values()) != 100:
        raise InputError(f"{what}: the shares add up to {sum(shares.values())} %, expected 100 %: {shares}")
    return {revision: percent for revision, percent in shares.items() if percent}
