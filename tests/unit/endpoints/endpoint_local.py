"""The local endpoint, as a subject of the contract: real processes around stand-ins of packages."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract import Fault
from endpoint_server import SERVER
from serving_process import until
from serving_releases import end_all, server_processes, stand_in_release

from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.local import LocalEndpoint
from shipway.lineage.documents import Release
from shipway.spec.rollout import EndpointSection

ROW: dict[str, object] = {"delay": 0.0, "holiday": True, "carrier": "AA"}


class LocalSubject:
    mirrors = True
    addresses = True
    counts_latency = True
    row = ROW

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self._packages = folder / "packages"

    @property
    def endpoint(self) -> LocalEndpoint:
        section = EndpointSection(kind="local")
        return LocalEndpoint("flights", self.state, environment="production", section=section, command=SERVER)

    def release(self, version: str, fault: Fault = "") -> Release:
        mode = "misshapen" if fault == "does not load" else "ok"
        release = stand_in_release(self._packages, version, mode)
        if fault == "changed bytes":
            (Path(release.package_uri) / "more.txt").write_text("not blessed")
        update = {"unblessed": {"decision": "rejected"}, "other blessing": {"model_digest": "sha256:" + "0" * 64}}
        blessing = release.blessing.model_copy(update=update.get(fault, {}))
        return release.model_copy(update={"blessing": blessing})

    def traffic(self, revision: str, requests: int, errors: int = 0, milliseconds: float = 0.0) -> None:
        url = f"{self.endpoint.status().url}/v1/models/flights:predict"
        for number in range(requests):
            carrier = "boom" if number < errors else f"sleep-{milliseconds:.0f}" if milliseconds else "AA"
            answer = call("POST", url, json_bytes({"instances": [{**ROW, "carrier": carrier}]}))
            assert answer.headers["x-shipway-revision"] == revision

    def break_revision(self, revision: str) -> None:
        for pid in self.workers(revision):
            os.kill(pid, signal.SIGKILL)

        def is_known() -> bool:
            found = self.endpoint.status().revision(revision)
            return found is not None and not found.ready

        until(is_known)

    def workers(self, revision: str) -> list[int]:
        """Returns the processes that serve nothing but one revision."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if revision.encode() in words and parent in server_processes(self.state):
                found.append(int(entry.name))
        return found

    def restart(self) -> None:
        end_all(self.state)
        until(lambda: not self.endpoint.status().pid)


@contextmanager
def subject(folder: Path) -> Iterator[LocalSubject]:
    opened = LocalSubject(folder)
    try:
        yield opened
    finally:
        end_all(opened.state)
