import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving_process import STAND_IN, until
from serving_releases import end_all, release_of, server_processes, stand_in_release

from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.local import LocalEndpoint, list_endpoints, stop_all
from shipway.endpoints.protocol import EndpointStatus
from shipway.errors import DigestMismatchError, InputError, NotBlessedError, ShipwayError
from shipway.lineage.documents import Release

ROW = {"delay": 0.0, "holiday": True, "carrier": "AA"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc"),
]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    yield folder
    end_all(folder)


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Release]:
    return lambda version, mode="ok": stand_in_release(tmp_path, version, mode)


def endpoint(state: Path, **options: float) -> LocalEndpoint:
    return LocalEndpoint("flights", state, command=STAND_IN, **options)


def served(status: EndpointStatus) -> str:
    """Returns the version of the model that answers, after a look at whether its prediction is that version's."""
    answer = call("POST", f"{status.url}/v1/models/flights:predict", json_bytes({"instances": [ROW]}))
    assert answer.status == 200
    version = answer.headers["x-model-version"]
    expected = {"1": 0.731058, "2": 0.880797, "3": 0.952574}[version]
    assert answer.json()["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-6)
    assert (status.version, status.ready) == (version, True)
    return version


def test_a_first_deploy_starts_a_server_and_a_second_one_changes_nothing(
    state: Path, release: Callable[..., Release]
) -> None:
    first = endpoint(state).stage(release("1"))
    before = endpoint(state).status()
    assert first.changed
    assert first.url == before.url
    assert (first.previous_version, first.previous_digest) == ("", "")
    assert served(before) == "1"
    second = endpoint(state).stage(release("1"))
    assert not second.changed
    assert second.model_copy(update={"changed": True}) == first
    assert endpoint(state).status() == before
    assert server_processes(state) == [before.pid]


def test_the_server_outlives_the_process_that_started_it(state: Path, release: Callable[..., Release]) -> None:
    document = state.parent / "release.json"
    release("1").write(document)
    _deploy_elsewhere(state, document)
    assert served(endpoint(state).status()) == "1"


def test_a_new_version_swaps_in_the_same_process(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).stage(release("1"))
    before = endpoint(state).status()
    second = endpoint(state).stage(release("2"))
    after = endpoint(state).status()
    assert (second.changed, second.previous_version) == (True, "1")
    assert second.previous_digest == before.digest
    assert (after.pid, after.url) == (before.pid, before.url)
    assert served(after) == "2"


def test_no_request_is_dropped_by_a_deploy(state: Path, release: Callable[..., Release]) -> None:
    url = endpoint(state).stage(release("1")).url
    done = threading.Event()

    def ask() -> int:
        asked = 0
        while not done.is_set():
            body = json_bytes({"instances": [ROW]})
            assert call("POST", f"{url}/v1/models/flights:predict", body).status == 200
            asked += 1
        return asked

    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(ask) for _ in range(3)]
        try:
            for version in ("2", "3", "1"):
                endpoint(state).stage(release(version))
        finally:
            done.set()
        assert all(caller.result() > 0 for caller in callers)


def test_nothing_secret_is_open_to_others(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not inherit")
    endpoint(state).stage(release("1"))
    endpoint(state).stage(release("2"))
    folder = state / "endpoints"
    token = (folder / "flights.token").read_text()
    assert len(token) >= 32
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.glob("flights.*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert path.suffix == ".token" or token not in path.read_text()
    process = Path("/proc") / str(endpoint(state).status().pid)
    assert token.encode() not in (process / "cmdline").read_bytes()
    environment = (process / "environ").read_bytes()
    assert b"do not inherit" not in environment
    assert token.encode() not in environment


@pytest.mark.parametrize("change", ["rejected", "other digest"])
def test_an_unblessed_release_is_refused(state: Path, release: Callable[..., Release], change: str) -> None:
    good = release("1")
    update = {"decision": "rejected"} if change == "rejected" else {"model_digest": "sha256:" + "0" * 64}
    bad = good.model_copy(update={"blessing": good.blessing.model_copy(update=update)})
    with pytest.raises(NotBlessedError, match="flights version 1"):
        endpoint(state).stage(bad)
    assert server_processes(state) == []


def test_bytes_that_changed_after_the_blessing_are_refused(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).stage(release("1"))
    changed = release("2")
    (Path(changed.package_uri) / "package.json").write_text("{}")
    with pytest.raises(DigestMismatchError, match="flights version 2"):
        endpoint(state).stage(changed)
    assert served(endpoint(state).status()) == "1"


def test_a_damaged_copy_is_made_anew(state: Path, release: Callable[..., Release]) -> None:
    copy = Path(endpoint(state).stage(release("1")).previous_package or state / "endpoints" / "packages")
    endpoint(state).stop()
    (damaged,) = copy.iterdir()
    (damaged / "package.json").write_text("{}")
    endpoint(state).stage(release("1"))
    assert served(endpoint(state).status()) == "1"


def test_a_missing_package_is_told(state: Path, release: Callable[..., Release]) -> None:
    gone = release("1").model_copy(update={"package_uri": str(state / "nowhere")})
    with pytest.raises(InputError, match="no package at"):
        endpoint(state).stage(gone)


def test_a_killed_server_is_started_again_on_its_port(state: Path, release: Callable[..., Release]) -> None:
    url = endpoint(state).stage(release("1")).url
    os.kill(endpoint(state).status().pid, signal.SIGKILL)
    until(lambda: endpoint(state).status() == EndpointStatus("flights"))
    again = endpoint(state).stage(release("1"))
    assert (again.changed, again.url) == (True, url)
    assert served(endpoint(state).status()) == "1"


def test_a_hung_server_is_replaced(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipway.endpoints.local._HEALTH_SECONDS", 0.5)
    endpoint(state).stage(release("1"))
    hung = endpoint(state).status().pid
    os.kill(hung, signal.SIGSTOP)
    assert endpoint(state).status() == EndpointStatus("flights", endpoint(state).status().url, pid=hung)
    deployment = endpoint(state).stage(release("2"))
    assert (deployment.changed, deployment.previous_version) == (True, "1")
    assert served(endpoint(state).status()) == "2"
    assert len(server_processes(state)) == 1


def test_a_hung_server_is_stopped(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipway.endpoints.local._HEALTH_SECONDS", 0.5)
    monkeypatch.setattr("shipway.endpoints.local._GRACE_SECONDS", 0.5)
    endpoint(state).stage(release("1"))
    os.kill(endpoint(state).status().pid, signal.SIGSTOP)
    endpoint(state).stop()
    until(lambda: not server_processes(state))


def test_a_stale_claim_with_a_reused_process_id_harms_nobody(state: Path, release: Callable[..., Release]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        folder = state / "endpoints"
        folder.mkdir(parents=True)
        claim = {"pid": stranger.pid, "host": "127.0.0.1", "port": 1, "instance": "x"}
        (folder / "flights.server").write_text(json.dumps(claim))
        assert endpoint(state).status() == EndpointStatus("flights")
        assert endpoint(state).stop() == EndpointStatus("flights")
        endpoint(state).stage(release("1"))
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()


def test_a_failed_deploy_leaves_what_was_served(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).stage(release("1"))
    before = endpoint(state).status()
    kept = (state / "endpoints" / "flights.json").read_text()
    with pytest.raises(ShipwayError, match="predicts shape"):
        endpoint(state).stage(release("2", "misshapen"))
    assert endpoint(state).status() == before
    assert (state / "endpoints" / "flights.json").read_text() == kept


def test_a_failed_first_deploy_tells_the_servers_log(state: Path, release: Callable[..., Release]) -> None:
    with pytest.raises(ShipwayError, match=r"its log:\n.*predicts shape"):
        endpoint(state).stage(release("2", "misshapen"))
    assert server_processes(state) == []


def test_a_failed_deploy_over_a_dead_server_brings_the_old_version_back(
    state: Path, release: Callable[..., Release]
) -> None:
    endpoint(state).stage(release("1"))
    os.kill(endpoint(state).status().pid, signal.SIGKILL)
    until(lambda: not server_processes(state))
    with pytest.raises(ShipwayError, match="predicts shape"):
        endpoint(state).stage(release("2", "misshapen"))
    assert served(endpoint(state).status()) == "1"


def test_a_server_that_never_becomes_ready_is_given_up(state: Path, release: Callable[..., Release]) -> None:
    command = [sys.executable, "-c", "import time; print('stuck here', flush=True); time.sleep(600)"]
    stuck = LocalEndpoint("flights", state, command=command, start_seconds=1.0)
    with pytest.raises(ShipwayError, match=r"not ready after 1 s; its log:\n  stuck here"):
        stuck.stage(release("1"))
    until(lambda: not server_processes(state))


def test_two_deploys_at_once_take_turns(state: Path, release: Callable[..., Release]) -> None:
    documents = []
    for version in ("1", "2", "3"):
        documents.append(state.parent / f"release-{version}.json")
        release(version).write(documents[-1])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda document: _deploy_elsewhere(state, document), documents))
    status = endpoint(state).status()
    assert served(status) in {"1", "2", "3"}
    assert server_processes(state) == [status.pid]
    meant = json.loads((state / "endpoints" / "flights.json").read_text())
    assert meant["current"]["version"] == status.version


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "point"),
    [
        ("living", "before intent"),
        ("living", "after intent"),
        ("living", "before load"),
        ("living", "after load"),
        ("dead", "after intent"),
        ("dead", "after load"),
        ("none", "after load"),
        ("none", "after all"),
    ],
)
def test_a_deploy_killed_at_any_point_is_taken_up_again(
    state: Path, release: Callable[..., Release], point: str, server: str
) -> None:
    if server != "none":
        endpoint(state).confirm(endpoint(state).stage(release("1")))
    if server == "dead":
        os.kill(endpoint(state).status().pid, signal.SIGKILL)
        until(lambda: not server_processes(state))
    document = state.parent / "release.json"
    release("2").write(document)
    _deploy_elsewhere(state, document, killed=point)
    deployment = endpoint(state).stage(release("2"))
    status = endpoint(state).status()
    assert served(status) == "2"
    assert deployment.previous_version == ("" if server == "none" else "1")
    until(lambda: server_processes(state) == [status.pid])
    back = endpoint(state).restore(deployment)
    if server == "none":
        assert back == EndpointStatus("flights")
        until(lambda: not server_processes(state))
    else:
        assert served(back) == "1"


def test_a_restore_killed_halfway_is_taken_up_again(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).confirm(endpoint(state).stage(release("1")))
    deployment = endpoint(state).stage(release("2"))
    document = state.parent / "deployment.json"
    deployment.write(document)
    for point in ("after intent", "after load"):
        _deploy_elsewhere(state, document, killed=point, act="restore")
    assert served(endpoint(state).restore(deployment)) == "1"
    assert served(endpoint(state).restore(deployment)) == "1"


def test_restore_leaves_a_later_deployment_alone(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).confirm(endpoint(state).stage(release("1")))
    second = endpoint(state).stage(release("2"))
    endpoint(state).stage(release("3"))
    assert served(endpoint(state).restore(second)) == "3"


def test_restore_of_a_dead_server_starts_the_earlier_version(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).stage(release("1"))
    second = endpoint(state).stage(release("2"))
    os.kill(endpoint(state).status().pid, signal.SIGKILL)
    until(lambda: not server_processes(state))
    assert served(endpoint(state).restore(second)) == "1"


def test_what_never_passed_its_checks_is_not_come_back_to(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).confirm(endpoint(state).stage(release("1")))
    endpoint(state).stage(release("2"))
    third = endpoint(state).stage(release("3"))
    assert third.previous_version == "1"
    endpoint(state).confirm(third)
    assert endpoint(state).stage(release("2")).previous_version == "3"


def test_a_copy_serves_on_when_its_source_is_gone(state: Path, release: Callable[..., Release]) -> None:
    first = release("1")
    endpoint(state).stage(first)
    (Path(first.package_uri) / "package.json").unlink()
    Path(first.package_uri).rmdir()
    endpoint(state).stop()
    endpoint(state).stage(first)
    assert served(endpoint(state).status()) == "1"


@pytest.mark.parametrize("content", [None, "", "{", '{"current": 3}'])
def test_a_lost_or_broken_state_file_is_made_good(
    state: Path, release: Callable[..., Release], content: str | None
) -> None:
    endpoint(state).stage(release("1"))
    path = state / "endpoints" / "flights.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    deployment = endpoint(state).stage(release("2"))
    assert deployment.previous_version == "1"
    assert served(endpoint(state).restore(deployment)) == "1"


def test_a_lost_token_means_a_new_server(state: Path, release: Callable[..., Release]) -> None:
    endpoint(state).stage(release("1"))
    (state / "endpoints" / "flights.token").unlink()
    endpoint(state).stage(release("2"))
    status = endpoint(state).status()
    assert served(status) == "2"
    assert server_processes(state) == [status.pid]


def test_the_port_of_the_environment_is_taken_or_told_to_be_taken(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("SHIPWAY_STAGING_PORT", str(port))
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            endpoint(state).stage(release("1"))
    assert endpoint(state).stage(release("1")).url.endswith(f":{port}")
    monkeypatch.setenv("SHIPWAY_STAGING_PORT", "eighty")
    endpoint(state).stop()
    with pytest.raises(InputError, match="SHIPWAY_STAGING_PORT"):
        endpoint(state).stage(release("1"))


def test_stop_all_ends_every_server_and_says_which(state: Path, tmp_path: Path) -> None:
    assert stop_all(state) == []
    for name in ("flights", "penguins"):
        stand_in = stand_in_release(tmp_path, "1")
        release = release_of(Path(stand_in.package_uri), stand_in.digest, "1", name)
        LocalEndpoint(name, state, command=STAND_IN).stage(release)
    running = list_endpoints(state)
    assert [(status.name, status.version, status.ready) for status in running] == [
        ("flights", "1", True),
        ("penguins", "1", True),
    ]
    (state / "endpoints" / "penguins.json").unlink()
    assert stop_all(state) == running
    assert stop_all(state) == []
    assert server_processes(state) == []


def test_stop_keeps_the_port_for_the_next_start(state: Path, release: Callable[..., Release]) -> None:
    url = endpoint(state).stage(release("1")).url
    endpoint(state).stop()
    deployment = endpoint(state).stage(release("2"))
    assert (deployment.url, deployment.previous_version) == (url, "")


def test_a_name_that_leads_elsewhere_is_refused(state: Path) -> None:
    for name in ("../x", "a/b", "", "A"):
        with pytest.raises(InputError, match="endpoint"):
            LocalEndpoint(name, state)


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path, release: Callable[..., Release]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep the endpoint's state"):
        endpoint(tmp_path / "file").stage(release("1"))


_ELSEWHERE = """
import os, signal, subprocess, sys
from pathlib import Path
from shipway.endpoints.local import LocalEndpoint
from shipway.lineage.documents import Deployment, Release, read_document

state, document, point, act, *command = sys.argv[1:]


class Killed(LocalEndpoint):
    def _write(self, value):
        die("before intent")
        super()._write(value)
        die("after intent")

    def _load(self, holder, revision):
        die("before load")
        answer = super()._load(holder, revision)
        die("after load")
        return answer


def die(here):
    if here == point:
        os.kill(os.getpid(), signal.SIGKILL)


class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        die("before load")
        super().__init__(*arguments, **options)
        die("after load")


subprocess.Popen = Popen
endpoint = Killed("flights", Path(state), command=command)
if act == "stage":
    endpoint.stage(read_document(Release, document))
else:
    endpoint.restore(read_document(Deployment, document))
die("after all")
"""


def _deploy_elsewhere(state: Path, document: Path, killed: str = "", act: str = "stage") -> None:
    command = [sys.executable, "-c", _ELSEWHERE, str(state), str(document), killed, act, *STAND_IN]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == (-signal.SIGKILL if killed else 0), ended.stderr
