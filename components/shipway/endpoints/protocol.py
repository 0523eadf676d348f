"""What an endpoint can do, whatever it runs on."""

from dataclasses import dataclass
from typing import Protocol

from shipway.lineage.documents import Deployment, Release


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """What an endpoint serves now, as it says itself.

    Attributes:
        name: The model's name.
        url: Where it answers; "" while nothing runs.
        version: The served version; "" while none is.
        digest: The digest of the served package; "" while none is.
        ready: Whether it answers predictions.
        pid: Its process, where it is one of this machine; 0 otherwise.
    """

    name: str
    url: str = ""
    version: str = ""
    digest: str = ""
    ready: bool = False
    pid: int = 0


class Endpoint(Protocol):
    """Serves one model by name."""

    def status(self) -> EndpointStatus:
        """Returns what is served now."""

    def stage(self, release: Release) -> Deployment:
        """Serves a release instead of what is served now; changes nothing when it is served already.

        Raises:
            NotBlessedError: No blessing names the release's digest.
            DigestMismatchError: The package's bytes are not the release's.
            ShipwayError: The release cannot be served; what was served before still is.
        """

    def confirm(self, deployment: Deployment) -> None:
        """Notes that a deployment passed its checks, so that a later one may come back to it."""

    def restore(self, deployment: Deployment) -> EndpointStatus:
        """Takes a deployment back: serves what was served before it, or nothing where nothing was.

        Where something else has been deployed since, that stays.

        Raises:
            ShipwayError: The earlier version cannot be served.
        """

    def stop(self) -> EndpointStatus:
        """Ends the endpoint and returns what it served."""
