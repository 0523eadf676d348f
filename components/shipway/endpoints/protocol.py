"""What an endpoint can do, whatever it runs on.

An endpoint serves one model by name, from one or more revisions. A revision is a registered version that was put there;
a version may be there twice, as when a fresh copy of the old one is compared with the new. Each revision has a share of
the traffic in whole percent; the shares add up to 100, or are all 0 while nothing is served.

Every change is idempotent, and conditional where the caller says what state it was decided upon (`expect`), so that two
controllers cannot fight. The `record` is a small text that the endpoint keeps for whoever controls it, under
the same condition, so that a controller which was killed is followed by another that knows as much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shipway.endpoints.client import Answer
from shipway.endpoints.window import Window
from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import Release


class ConflictError(ShipwayError):
    """The endpoint's state is no longer the one that a change was decided upon."""


class NotReadyError(ShipwayError):
    """A revision that does not answer was about to get traffic, or did not become ready in time."""


class UnsupportedError(InputError):
    """An endpoint of this kind, or as it is set up, cannot do that."""


@dataclass(frozen=True, slots=True)
class RevisionStatus:
    """A revision of an endpoint.

    Attributes:
        id: Its name on the endpoint; see `revision_id`.
        version: The registry's version.
        digest: The digest of its package.
        share: Percent of the traffic, 0 to 100.
        ready: Whether it answers predictions.
        mirror: Percent of the requests that are mirrored to it.
        reason: Why it is not ready, in one sentence; "" when it is, or nobody knows.
    """

    id: str
    version: str
    digest: str
    share: int = 0
    ready: bool = False
    mirror: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """What an endpoint serves now, as it says itself.

    Attributes:
        name: The model's name.
        url: Where it answers; "" while nothing runs.
        revisions: Its revisions, by id.
        pid: Its process, where it is one of this machine; 0 otherwise.
        generation: Changes with every change of revisions, shares, mirror or record; what `expect` is compared with.
        record: The controller's record; "" when there is none.
        edges: Inner edges of the prediction histogram of a regression model; () for others.
        served_as: The model's name in URLs and headers, where it is not `name`.
    """

    name: str
    url: str = ""
    revisions: tuple[RevisionStatus, ...] = ()
    pid: int = 0
    generation: str = ""
    record: str = ""
    edges: tuple[float, ...] = ()
    served_as: str = ""

    @property
    def live(self) -> RevisionStatus | None:
        """The revision with the greatest share of the traffic; None while nothing is served."""
        return max((found for found in self.revisions if found.share), key=lambda found: found.share, default=None)

    def revision(self, revision: str) -> RevisionStatus | None:
        """Returns a revision by id."""
        return next((found for found in self.revisions if found.id == revision), None)


def revision_id(version: str, digest: str, role: str = "") -> str:
    """Returns a revision's id, as `v3-1a2b3c4d` or `v3-1a2b3c4d-baseline`: a DNS label, the same for the same package.

    Args:
        version: The registry's version.
        digest: The package's digest, `sha256:...`.
        role: Tells apart two revisions of one version, as `baseline`.
    """
    return "-".join(part for part in (f"v{version}", digest.removeprefix("sha256:")[:8], role) if part)


class Endpoint(Protocol):
    """Serves one model by name.

    Every method raises ShipwayError where the platform cannot be reached or refuses; the message says which, and what.
    With `expect` given, a change is made only while `EndpointStatus.generation` is that; else ConflictError is raised
    and nothing has changed. Each change returns the status after it.
    """

    @property
    def name(self) -> str:
        """The model's name."""

    def status(self) -> EndpointStatus:
        """Returns what is served now."""

    def stage(
        self,
        release: Release,
        revision: str = "",
        *,
        edges: Sequence[float] = (),
        expect: str | None = None,
    ) -> EndpointStatus:
        """Puts a revision there with no traffic, and waits until it is ready.

        The traffic of the other revisions stays as it is. A revision that is there already, with the same digest and
        ready, is left as it is; one that is not ready is put there anew.

        Args:
            release: The blessed version.
            revision: Its id; default: `revision_id(version, digest)`.
            edges: Inner edges of the histogram of a regression model's predictions, so that two revisions count alike;
                default: those of its package's own labels.
            expect: The generation that this was decided upon.

        Raises:
            NotBlessedError: No blessing names the release's digest.
            DigestMismatchError: The package's bytes are not the release's.
            NotReadyError: It did not become ready; the message has the reason. What was there before still is.
            ConflictError: See above.
        """

    def shift(self, shares: Mapping[str, int], *, expect: str | None = None) -> EndpointStatus:
        """Gives revisions their shares of the traffic, all at once; those not named get none.

        Args:
            shares: Revision -> percent; whole numbers that add up to 100.
            expect: The generation that this was decided upon.

        Raises:
            InputError: A revision is not there, or the shares do not add up to 100; nothing has changed.
            NotReadyError: A revision with a share is not ready; nothing has changed.
            ConflictError: See above.
        """

    def mirror(self, revision: str, percent: int, *, expect: str | None = None) -> EndpointStatus:
        """Mirrors a share of the requests to a revision, which is never answered from; 0 switches that off.

        One revision at a time is mirrored to; another one takes the place of the one before.

        Raises:
            InputError: The revision is not there, or has traffic of its own.
            UnsupportedError: The endpoint cannot mirror as it is set up; the message says what to set.
            ConflictError: See above.
        """

    def retire(self, revision: str, *, expect: str | None = None) -> EndpointStatus:
        """Takes a revision away once its open requests have ended; one that is not there is no fault.

        Raises:
            InputError: It has traffic.
            ConflictError: See above.
        """

    def write_record(self, record: str, *, expect: str | None = None) -> EndpointStatus:
        """Keeps a text of at most 32 KiB for whoever controls the endpoint.

        Raises:
            ConflictError: See above.
        """

    def predict(self, revision: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """Asks one revision for predictions in the V1 protocol, whatever its share: warm-up, smoke tests.

        Returns:
            The answer, whatever its HTTP status.

        Raises:
            UnreachableError: Nobody answered.
            UnsupportedError: The platform cannot address a revision.
        """

    def windows(self, since: float, until: float) -> dict[str, Window]:
        """Returns what each revision did between two moments (seconds since the epoch), by its id.

        A revision without requests has a window of zeros. The metrics may lag behind; `lag_seconds` says by how much.

        Raises:
            ShipwayError: The metrics cannot be had.
        """

    @property
    def lag_seconds(self) -> float:
        """How old the newest metrics are at most, seconds."""

    def stop(self) -> EndpointStatus:
        """Ends the endpoint with all its revisions and returns what it served."""
