"""Rollouts on a real local endpoint under load: the controller and the candidate's process are killed on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving_real import real_release
from serving_releases import end_all

from shipway.endpoints.client import UnreachableError, call, json_bytes
from shipway.endpoints.local import LocalEndpoint
from shipway.endpoints.packages import golden_rows
from shipway.endpoints.protocol import EndpointStatus, revision_id
from shipway.lineage.documents import Release
from shipway.spec import RolloutSection

CHILD = Path(__file__).with_name("rollout_child.py")

pytestmark = pytest.mark.slow


class Callers:
    """Threads that ask for predictions until the end, and remember what went wrong."""

    def __init__(self, url: str, release: Release, count: int = 4) -> None:
        self.answers: dict[str, int] = {}
        self.faults: list[str] = []
        self._url = f"{url}/v1/models/{release.name}:predict"
        self._body = json_bytes({"instances": golden_rows(Path(release.package_uri))[:1]})
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                answer = call("POST", self._url, self._body)
            except UnreachableError as error:
                self.faults.append(str(error))
                continue
            if answer.status != 200:
                self.faults.append(f"HTTP {answer.status}: {answer.reason()}")
            version = answer.headers.get("x-model-version", "")
            with self._lock:
                self.answers[version] = self.answers.get(version, 0) + 1
            self._end.wait(0.005)

    def close(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


class World:
    """A production endpoint that serves version 1, and version 2 that is to follow it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stable, self.candidate = real_release(folder, "1"), real_release(folder, "2")
        self.stable.write(folder / "stable.json")
        self.candidate.write(folder / "candidate.json")
        self.endpoint = LocalEndpoint("flights", folder / "state", environment="production")
        old = revision_id("1", self.stable.digest)
        self.endpoint.stage(self.stable)
        self.endpoint.shift({old: 100})
        self.callers = Callers(self.endpoint.status().url, self.stable)

    def write_section(self, **changes: object) -> None:
        values: dict[str, object] = {
            "shadow": {"bake": "1s", "min_requests": 50},
            "steps": [50, 100],
            "bake": "1s",
            "min_requests": 50,
            "keep_warm": "1s",
            "warm_up": 5,
            # The machine is busy with other tests, so that a slow second is no fault of the candidate's.
            "rules": [{"metric": "error_rate", "max": 0.1, "action": "rollback"}],
            **changes,
        }
        section = RolloutSection.model_validate(values)
        (self.folder / "section.json").write_text(section.model_dump_json(by_alias=True, exclude_none=True))

    def start(self, *, mortal: bool = False) -> subprocess.Popen[str]:
        environment = {**os.environ, "SHIPWAY_STATE": str(self.folder / "state")}
        command = [sys.executable, str(CHILD), str(self.folder), "all" if mortal else "none"]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def run(self, *, mortal: bool = False) -> tuple[int, str]:
        child = self.start(mortal=mortal)
        out, err = child.communicate(timeout=120)
        assert child.returncode in (0, -signal.SIGKILL), err
        return child.returncode, out.strip()

    def end(self) -> tuple[dict[str, int], dict[str, str]]:
        """Returns the shares and what the registry was told."""
        status = self.endpoint.status()
        return {found.version: found.share for found in status.revisions}, json.loads(
            (self.folder / "ledger.json").read_text()
        )


@pytest.fixture
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], World]]:
    made: list[World] = []

    def make() -> World:
        made.append(World(tmp_path_factory.mktemp("world")))
        return made[-1]

    yield make
    for world in made:
        world.callers.close()
        world.endpoint.stop()
        end_all(world.folder / "state")


LIVE = ({"2": 100}, {"champion": "2", "previous": "1", "baseline": "2"})


def test_a_controller_killed_at_every_boundary_ends_where_an_undisturbed_one_does(
    new_world: Callable[[], World],
) -> None:
    calm, stormy = new_world(), new_world()
    calm.write_section()
    assert calm.run() == (0, "live")
    assert calm.end() == LIVE
    stormy.write_section()
    kills = 0
    while (done := stormy.run(mortal=True))[0]:
        kills += 1
        assert kills < 40
    moments = (stormy.folder / "killed").read_text().splitlines()
    assert len(moments) == kills
    actions = {moment.split(" ", 1)[1] for moment in moments}
    assert {"stage candidate", "warm up", "mirror", "shift", "tell live", "tell baseline"} <= actions
    assert done[1] == "live"
    assert stormy.end() == calm.end()
    for world in (calm, stormy):
        assert not world.callers.faults
        assert world.callers.answers["2"] > 0


def test_a_candidate_that_is_killed_loses_no_request_and_is_rolled_back(new_world: Callable[[], World]) -> None:
    world = new_world()
    world.write_section(shadow=None, bake="60s", patience="60s")
    child = world.start()
    revision = revision_id("2", world.candidate.digest)
    _wait(lambda: _share(world.endpoint.status(), revision) == 50)
    _wait(lambda: world.callers.answers.get("2", 0) > 20)
    os.kill(_worker(world, revision), signal.SIGKILL)
    out, err = child.communicate(timeout=60)
    assert out.startswith("rejected flights version 2 was rolled back: the candidate is not ready"), out + err
    assert world.end()[0] == {"1": 100}
    assert not world.callers.faults


def _share(status: EndpointStatus, revision: str) -> int:
    found = status.revision(revision)
    return found.share if found else 0


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _worker(world: World, revision: str) -> int:
    """Returns the process of an isolated revision: a child of the server that has the revision on its command line."""
    server = world.endpoint.status().pid
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    found = [pid for pid in children if revision.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    return int(found[0])
