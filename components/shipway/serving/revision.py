"""A revision on this server: a version that was put there, in a slot of this process or in a process of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.endpoints.packages import check_blessed
from shipway.errors import NotBlessedError
from shipway.lineage.documents import Blessing, Release
from shipway.serving.isolated import ModelFaultError, Worker
from shipway.serving.model_slot import Array, ModelSlot, ServedInfo

if TYPE_CHECKING:
    from shipway.serving.telemetry import RevisionCounter


@dataclass(frozen=True, slots=True)
class Order:
    """What to put on the server.

    Attributes:
        id: The revision's id.
        path: The package's folder.
        version: The registry's version.
        digest: The digest that the package must have; None trusts the bytes.
        blessing: The gate's verdict; None where there is none.
        isolated: Whether it gets a process of its own.
        edges: Inner edges of the histogram of a regression model's predictions; () takes the server's.
    """

    id: str
    path: Path
    version: str
    digest: str | None = None
    blessing: Blessing | None = None
    isolated: bool = False
    edges: tuple[float, ...] = ()


class Revision:
    """A revision, ready or not. Its backend is exchanged as a whole; a request takes it once and keeps it to its end.

    Attributes:
        id: Its id.
        version: The registry's version.
        digest: The digest of the package's bytes.
        isolated: Whether it is meant to have a process of its own.
        share: Percent of the traffic.
        edges: Inner edges of its prediction histogram.
        slot: The model, where it is in this process.
        worker: Its process, where it has one.
        info: What its package says of itself.
        order: How it was put there.
        reason: Why it never became ready; "" when it did.
        headers: What every answer of it carries.
    """

    __slots__ = (
        "_counter",
        "digest",
        "edges",
        "headers",
        "id",
        "info",
        "isolated",
        "order",
        "reason",
        "share",
        "slot",
        "version",
        "worker",
    )

    def __init__(self, name: str, order: Order, digest: str) -> None:
        self.id = order.id
        self.version = order.version
        self.digest = digest
        self.isolated = order.isolated
        self.order = order
        self.share = 0
        self.edges = order.edges
        self.slot: ModelSlot | None = None
        self.worker: Worker | None = None
        self.info: ServedInfo | None = None
        self._counter: RevisionCounter | None = None
        self.reason = ""
        self.headers: tuple[tuple[bytes, bytes], ...] = (
            (b"x-model-name", name.encode("latin-1")),
            (b"x-model-version", order.version.encode("latin-1")),
            (b"x-model-digest", digest.encode("latin-1")),
            (b"x-shipway-revision", order.id.encode("latin-1")),
        )

    @property
    def ready(self) -> bool:
        """Whether it answers predictions."""
        return self.slot is not None or (self.worker is not None and not self.worker.gone)

    @property
    def count(self) -> "RevisionCounter":
        """What it did. Every revision that was loaded once has it."""
        counter = self._counter
        assert counter is not None  # noqa: S101 - nobody is sent to a revision that was never loaded
        return counter

    def count_by(self, counter: "RevisionCounter") -> None:
        """Says what counts it from now on."""
        self._counter = counter

    @property
    def why_not(self) -> str:
        """Why it is not ready; "" when it is."""
        if self.slot is not None:
            return ""
        return self.worker.gone if self.worker is not None else self.reason or "it is being loaded"

    async def ask(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Array, float]:
        """Asks its process; a slot is asked directly.

        Returns:
            The prediction, and the process's own seconds.

        Raises:
            RequestError: A row does not fit the model.
            ModelFaultError: There is no answer, by the revision's fault.
        """
        if self.worker is None:
            raise ModelFaultError(self.why_not)
        return await self.worker.predict(rows)


def check_order(name: str, order: Order, allow_unblessed: bool) -> str | None:
    """Refuses an order without a blessing, and returns the digest that its package must have.

    Args:
        name: The model's name.
        order: What to put on the server.
        allow_unblessed: Whether an order without a blessing is taken; one that is refused by its blessing never is.

    Raises:
        NotBlessedError: There is no blessing, or its decision or model is another.
    """
    blessing = order.blessing
    if blessing is None:
        if allow_unblessed:
            return order.digest
        raise NotBlessedError(
            f"{name} version {order.version} comes without a blessing; expected the gate's verdict on it "
            "(--blessing, or SHIPWAY_BLESSING; --allow-unblessed serves it all the same)"
        )
    digest = order.digest or blessing.model_digest
    check_blessed(
        Release(
            name=name,
            version=order.version,
            digest=digest,
            package_uri=str(order.path),
            tracking_uri="",
            created=False,
            blessing=blessing,
        )
    )
    return digest
