"""What a rollout asks and tells the model registry."""

from collections.abc import Mapping
from typing import Any, Protocol

from shipway.lineage.documents import Release


class Ledger(Protocol):
    """The registry as a rollout sees it. Every method is idempotent."""

    def check(self, release: Release) -> None:
        """Refuses a release that may not be promoted.

        Raises:
            NotBlessedError: No blessing names it.
            DigestMismatchError: The registered digest is another one.
            RejectedError: It is marked as bad.
        """

    def live(self, release: Release, previous_version: str) -> None:
        """Gives the release the alias `champion`, and the version before it `previous`."""

    def rolled_back(self, release: Release, reason: str, *, mark: bool, stable_version: str) -> None:
        """Gives the alias `champion` back to the old version where it had moved.

        Args:
            release: The version that traffic was taken from.
            reason: Why.
            mark: Whether the version is marked, and not promoted again without an override.
            stable_version: The version that has the traffic; "" when there is none.
        """

    def baseline(self, release: Release, baseline: Mapping[str, Any]) -> None:
        """Keeps what the release did in production with its version: latency, predictions, features."""
