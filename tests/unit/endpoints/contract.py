"""What every endpoint has to be able to do, whatever it runs on: the subjects of `test_endpoints_contract.py`.

A subject is an endpoint with all that it needs around it (processes, stand-ins of clusters). A module
`endpoint_KIND.py` of this folder offers `subject(folder: Path) -> AbstractContextManager[Subject]`, which ends what it
started however the test ends; SUBJECTS names it.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

from shipway.endpoints.protocol import Endpoint
from shipway.lineage.documents import Release

Fault = Literal["", "unblessed", "other blessing", "changed bytes", "does not load"]
"""What is wrong with a release.

- `unblessed`: its blessing's decision is "rejected".
- `other blessing`: its blessing names another digest.
- `changed bytes`: the package at `package_uri` was changed after it was blessed.
- `does not load`: blessed and unchanged, but the server cannot load it, so that it never becomes ready; the platform's
  reason contains the words "predicts shape".
"""


class Subject(Protocol):
    """An endpoint of the model `flights` under test, empty at first."""

    @property
    def endpoint(self) -> Endpoint:
        """A handle on the endpoint; a new one at each call, as another process would make it."""

    def release(self, version: str, fault: Fault = "") -> Release:
        """Returns a release; the same one for the same arguments."""

    @property
    def row(self) -> dict[str, object]:
        """A row that every release predicts."""

    def traffic(self, revision: str, requests: int, errors: int = 0, milliseconds: float = 0.0) -> None:
        """Sends requests to a revision that has all the traffic; the metrics know of them when this returns.

        Args:
            revision: Its id.
            requests: How many requests, those with errors included.
            errors: How many of them fail by the revision's fault.
            milliseconds: How long the model takes for each at least.
        """

    def break_revision(self, revision: str) -> None:
        """Makes a revision that is ready fail for good; returns once the platform knows that it is not ready."""

    def restart(self) -> None:
        """Kills everything that serves, as a power cut would; what the platform starts again by itself is up again."""

    @property
    def mirrors(self) -> bool:
        """Whether this endpoint, as it is set up here, can mirror."""

    @property
    def addresses(self) -> bool:
        """Whether this endpoint can ask a revision without traffic (`predict`)."""

    @property
    def counts_latency(self) -> bool:
        """Whether `traffic` can bring about latencies of the milliseconds asked for."""


def _subject(module: str) -> Callable[[Path], AbstractContextManager[Subject]]:
    def enter(folder: Path) -> AbstractContextManager[Subject]:
        opened: AbstractContextManager[Subject] = importlib.import_module(module).subject(folder)
        return opened

    return enter


SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "local": _subject("endpoint_local"),
    "kserve": _subject("endpoint_kserve"),
    "kserve_serverless": _subject("endpoint_kserve_serverless"),
    "vertex": _subject("endpoint_vertex"),
}
