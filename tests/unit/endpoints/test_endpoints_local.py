"""What the local endpoint promises beyond the contract: real processes, killed, hung and crowded."""

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
from endpoint_local import ROW, LocalSubject
from endpoint_server import SERVER
from serving_process import until
from serving_releases import end_all, release_of, server_processes, stand_in_release

from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.local import LocalEndpoint, stop_all
from shipway.endpoints.protocol import EndpointStatus, NotReadyError, revision_id
from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import Release
from shipway.spec.rollout import EndpointSection

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
    return lambda version, mode="ok": stand_in_release(tmp_path / "packages", version, mode)


def endpoint(state: Path, **options: object) -> LocalEndpoint:
    return LocalEndpoint("flights", state, **{"command": SERVER, **options})  # type: ignore[arg-type] # any of them


def ident(release: Release, role: str = "") -> str:
    return revision_id(release.version, release.digest, role)


def serve(state: Path, release: Release) -> EndpointStatus:
    """Stages a release and gives it all the traffic."""
    endpoint(state).stage(release)
    return endpoint(state).shift({ident(release): 100})


def served(status: EndpointStatus) -> str:
    """Returns the version that has all the traffic, after a look at whether its prediction is that version's."""
    answer = call("POST", f"{status.url}/v1/models/flights:predict", json_bytes({"instances": [ROW]}))
    assert answer.status == 200
    version = answer.headers["x-model-version"]
    expected = {"1": 0.731058, "2": 0.880797, "3": 0.952574}[version]
    assert answer.json()["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-6)
    assert status.live is not None
    assert (status.live.version, status.live.share, status.live.ready) == (version, 100, True)
    return version


def kill_server(state: Path) -> None:
    os.kill(endpoint(state).status().pid, signal.SIGKILL)
    until(lambda: not endpoint(state).status().pid)


def test_the_server_outlives_the_process_that_started_it(state: Path, release: Callable[..., Release]) -> None:
    _elsewhere(state, "stage", release("1"))
    _elsewhere(state, "shift", release("1"))
    assert served(endpoint(state).status()) == "1"


def test_a_candidate_has_a_process_of_its_own_until_it_is_the_only_one(tmp_path: Path) -> None:
    subject = LocalSubject(tmp_path)
    try:
        old, new = subject.release("1"), subject.release("2")
        subject.endpoint.stage(old)
        subject.endpoint.shift({ident(old): 100})
        assert subject.workers(ident(old)) == []
        subject.endpoint.stage(new)
        assert len(subject.workers(ident(new))) == 1
        subject.endpoint.shift({ident(new): 100})
        subject.endpoint.retire(ident(old))
        until(lambda: not subject.workers(ident(new)))
        assert served(subject.endpoint.status()) == "2"
    finally:
        end_all(subject.state)


def test_a_candidate_is_a_slot_of_the_server_where_the_spec_says_so(tmp_path: Path) -> None:
    subject = LocalSubject(tmp_path)
    section = EndpointSection(kind="local", isolation="slot")
    try:
        slots = endpoint(subject.state, section=section)
        for version in ("1", "2"):
            slots.stage(subject.release(version))
        assert subject.workers(ident(subject.release("2"))) == []
        assert all(revision.ready for revision in slots.status().revisions)
    finally:
        end_all(subject.state)


def test_no_request_is_lost_on_a_candidates_way(state: Path, release: Callable[..., Release]) -> None:
    url = serve(state, release("1")).url
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
            old, new = ident(release("1")), ident(release("2"))
            endpoint(state).stage(release("2"))
            endpoint(state).mirror(new, 100)
            endpoint(state).shift({old: 50, new: 50})
            (worker,) = LocalSubject(state.parent).workers(new)
            os.kill(worker, signal.SIGKILL)
            endpoint(state).shift({old: 100})
            endpoint(state).stage(release("2"))
            endpoint(state).shift({new: 100})
            endpoint(state).retire(old)
        finally:
            done.set()
        assert all(caller.result() > 0 for caller in callers)
    assert served(endpoint(state).status()) == "2"


def test_nothing_secret_is_open_to_others(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not inherit")
    serve(state, release("1"))
    endpoint(state).stage(release("2"))
    folder = state / "endpoints" / "staging"
    token = (folder / "flights.token").read_text()
    assert len(token) >= 32
    for private in (folder, folder.parent):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {path.suffix for path in folder.iterdir()} == {".json", ".table", ".server", ".token", ".lock", ".log"}
    for path in folder.glob("flights.*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert path.suffix == ".token" or token not in path.read_text()
    pid = endpoint(state).status().pid
    for process in (pid, *LocalSubject(state.parent).workers(ident(release("2")))):
        place = Path("/proc") / str(process)
        assert token.encode() not in (place / "cmdline").read_bytes()
        environment = (place / "environ").read_bytes()
        assert b"do not inherit" not in environment
        assert token.encode() not in environment


def test_a_copy_serves_on_when_its_source_is_gone(state: Path, release: Callable[..., Release]) -> None:
    first = release("1")
    serve(state, first)
    (Path(first.package_uri) / "package.json").unlink()
    Path(first.package_uri).rmdir()
    kill_server(state)
    assert served(endpoint(state).shift({ident(first): 100})) == "1"


def test_a_damaged_copy_is_made_anew(state: Path, release: Callable[..., Release]) -> None:
    serve(state, release("1"))
    kill_server(state)
    (copy,) = (state / "endpoints" / "packages").iterdir()
    (copy / "package.json").write_text("{}")
    assert served(endpoint(state).shift({ident(release("1")): 100})) == "1"


def test_a_damaged_copy_without_a_source_is_not_served(state: Path, release: Callable[..., Release]) -> None:
    first = release("1")
    serve(state, first)
    kill_server(state)
    for package in (Path(first.package_uri), *(state / "endpoints" / "packages").iterdir()):
        (package / "package.json").write_text("{}")
    with pytest.raises(ShipwayError, match=first.digest):
        endpoint(state).shift({ident(first): 100})
    assert server_processes(state) == []


def test_copies_that_nobody_serves_any_more_are_removed(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        serve(state, release(version))
    production = endpoint(state, environment="production")
    production.stage(release("1"))
    packages = state / "endpoints" / "packages"

    def retire_and_count() -> int:
        endpoint(state).stage(release("3"))
        endpoint(state).retire(ident(release("3")))
        return len(list(packages.iterdir()))

    assert retire_and_count() == 3
    monkeypatch.setattr("shipway.endpoints.packages._UNUSED_SECONDS", -1.0)
    assert retire_and_count() == 2
    endpoint(state).retire(ident(release("1")))
    assert len(list(packages.iterdir())) == 2
    production.stop()
    assert retire_and_count() == 1
    assert served(endpoint(state).status()) == "2"


def test_a_missing_package_is_told(state: Path, release: Callable[..., Release]) -> None:
    gone = release("1").model_copy(update={"package_uri": str(state / "nowhere")})
    with pytest.raises(InputError, match="no package at"):
        endpoint(state).stage(gone)


@pytest.mark.parametrize("change", ["shift", "stage", "retire", "mirror", "write_record"])
def test_a_killed_server_is_started_again_by_any_change(
    state: Path, release: Callable[..., Release], change: str
) -> None:
    url = serve(state, release("1")).url
    endpoint(state).stage(release("2"))
    kill_server(state)
    dead = endpoint(state).status()
    assert (dead.url, dead.pid) == ("", 0)
    assert dead.live is not None
    assert (dead.live.version, dead.live.ready) == ("1", False)
    assert "no server is running" in dead.live.reason
    live = endpoint(state)
    {
        "shift": lambda: live.shift({ident(release("1")): 100}),
        "stage": lambda: live.stage(release("1")),
        "retire": lambda: live.retire(ident(release("2"))),
        "mirror": lambda: live.mirror(ident(release("2")), 10),
        "write_record": lambda: live.write_record("mine"),
    }[change]()
    status = live.status()
    assert status.url == url
    assert served(status) == "1"


def test_a_candidate_that_a_new_server_is_still_loading_is_waited_for(
    state: Path, release: Callable[..., Release]
) -> None:
    old, new = release("1"), release("2")
    serve(state, old)
    endpoint(state).stage(new)
    kill_server(state)
    endpoint(state).write_record("starts the server, which is ready once the first version is")
    status = endpoint(state).shift({ident(old): 50, ident(new): 50})
    assert [(revision.share, revision.ready) for revision in status.revisions] == [(50, True), (50, True)]


def test_traffic_comes_back_over_a_candidate_that_keeps_a_new_server_from_starting(
    state: Path, release: Callable[..., Release]
) -> None:
    old, new = release("1"), release("2")
    serve(state, old)
    endpoint(state).stage(new)
    endpoint(state).shift({ident(old): 75, ident(new): 25})
    kill_server(state)
    for package in (Path(new.package_uri), state / "endpoints" / "packages" / new.digest.removeprefix("sha256:")):
        (package / "package.json").write_text("{}")
    with pytest.raises(ShipwayError, match="the server ended at once"):
        endpoint(state).stage(release("3"))
    assert served(endpoint(state).shift({ident(old): 100})) == "1"
    assert [revision.id for revision in endpoint(state).retire(ident(new)).revisions] == [ident(old)]


def test_a_hung_server_is_replaced(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipway.endpoints.local_server._HEALTH_SECONDS", 0.5)
    hung = serve(state, release("1"))
    os.kill(hung.pid, signal.SIGSTOP)
    seen = endpoint(state).status()
    assert (seen.url, seen.pid) == (hung.url, hung.pid)
    assert seen.live is not None
    assert "does not answer" in seen.live.reason
    assert not seen.live.ready
    monkeypatch.setattr("shipway.endpoints.local_server._HEALTH_SECONDS", 5.0)
    assert served(serve(state, release("2"))) == "2"
    assert len(server_processes(state)) == 1


def test_a_hung_server_is_stopped(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipway.endpoints.local_server._HEALTH_SECONDS", 0.5)
    monkeypatch.setattr("shipway.endpoints.local_server._GRACE_SECONDS", 0.5)
    os.kill(serve(state, release("1")).pid, signal.SIGSTOP)
    endpoint(state).stop()
    until(lambda: not server_processes(state))


def test_a_stale_claim_with_a_reused_process_id_harms_nobody(state: Path, release: Callable[..., Release]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        folder = state / "endpoints" / "staging"
        folder.mkdir(parents=True)
        claim = {"pid": stranger.pid, "host": "127.0.0.1", "port": 1, "instance": "x"}
        (folder / "flights.server").write_text(json.dumps(claim))
        assert endpoint(state).status() == EndpointStatus("flights", generation="0")
        assert endpoint(state).stop() == EndpointStatus("flights", generation="0")
        serve(state, release("1"))
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()


def test_a_first_release_that_cannot_be_served_leaves_nothing(state: Path, release: Callable[..., Release]) -> None:
    with pytest.raises(NotReadyError, match=r"flights version 2 cannot be served: .*predicts shape"):
        endpoint(state).stage(release("2", "misshapen"))
    assert server_processes(state) == []
    assert endpoint(state).status().revisions == ()


def test_a_failed_stage_over_a_dead_server_brings_back_what_was_served(
    state: Path, release: Callable[..., Release]
) -> None:
    serve(state, release("1"))
    kill_server(state)
    with pytest.raises(NotReadyError, match="predicts shape"):
        endpoint(state).stage(release("2", "misshapen"))
    assert served(endpoint(state).status()) == "1"


def test_a_server_that_never_becomes_ready_is_given_up(state: Path, release: Callable[..., Release]) -> None:
    command = [sys.executable, "-c", "import time; print('stuck here', flush=True); time.sleep(600)"]
    with pytest.raises(NotReadyError, match=r"not ready after 1 s; its log:\n  stuck here"):
        endpoint(state, command=command, seconds=1.0).stage(release("1"))
    until(lambda: not server_processes(state))


def test_two_at_once_take_turns(state: Path, release: Callable[..., Release]) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda version: _elsewhere(state, "stage", release(version)), ("1", "2", "3")))
    status = endpoint(state).status()
    assert {revision.version for revision in status.revisions} == {"1", "2", "3"}
    assert all(revision.ready for revision in status.revisions)
    assert server_processes(state) == [status.pid]


POINTS = ["before intent", "after intent", "before order", "after order", "after all"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("server", ["living", "dead"])
@pytest.mark.parametrize("act", ["stage", "shift", "retire"])
def test_a_change_killed_at_any_point_is_taken_up_again(
    state: Path, release: Callable[..., Release], act: str, server: str, point: str
) -> None:
    old, new = release("1"), release("2")
    serve(state, old)
    if act != "stage":
        endpoint(state).stage(new)
    target = old if act == "retire" else new
    if act == "retire":
        endpoint(state).shift({ident(new): 100})
    if server == "dead":
        kill_server(state)
    _elsewhere(state, act, target, killed=point)
    _elsewhere(state, act, target)
    status = endpoint(state).status()
    shares = {revision.version: (revision.share, revision.ready) for revision in status.revisions}
    assert (
        shares
        == {
            "stage": {"1": (100, True), "2": (0, True)},
            "shift": {"1": (0, True), "2": (100, True)},
            "retire": {"2": (100, True)},
        }[act]
    )
    assert served(status) == ("1" if act == "stage" else "2")
    assert server_processes(state) == [status.pid]


@pytest.mark.parametrize("content", [None, "", "{", '{"revisions": 3}'])
def test_a_lost_or_broken_state_file_is_told_and_ended(
    state: Path, release: Callable[..., Release], content: str | None
) -> None:
    url = serve(state, release("1")).url
    path = state / "endpoints" / "staging" / "flights.json"
    if content is None:
        path.unlink()
        lost = endpoint(state).status()
        assert served(lost) == "1"
    else:
        path.write_text(content)
        with pytest.raises(ShipwayError, match=r"flights\.json: does not say what endpoint flights"):
            endpoint(state).status()
    with pytest.raises(ShipwayError, match="put the file back, or end the endpoint with `shipway down`"):
        endpoint(state).stage(release("2"))
    assert call("GET", f"{url}/v2/health/ready").status == 200
    ((environment, stopped),) = stop_all(state)
    assert (environment, stopped.url) == ("staging", url)
    assert server_processes(state) == []
    assert served(serve(state, release("2"))) == "2"


def test_a_lost_token_means_a_new_server(state: Path, release: Callable[..., Release]) -> None:
    serve(state, release("1"))
    (state / "endpoints" / "staging" / "flights.token").unlink()
    assert served(serve(state, release("2"))) == "2"
    assert server_processes(state) == [endpoint(state).status().pid]


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_port_of_the_environment_is_taken_or_told_to_be_taken(
    state: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    variable = f"SHIPWAY_{environment.upper()}_PORT"
    one = endpoint(state, environment=environment)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(variable, str(port))
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
            one.stage(release("1"))
    assert one.stage(release("1")).url.endswith(f":{port}")
    monkeypatch.setenv(variable, "eighty")
    one.stop()
    with pytest.raises(InputError, match=variable):
        one.stage(release("1"))


def test_staging_and_production_know_nothing_of_each_other(state: Path, release: Callable[..., Release]) -> None:
    production = endpoint(state, environment="production")
    serve(state, release("1"))
    production.stage(release("2"))
    production.shift({ident(release("2")): 100})
    assert served(endpoint(state).status()) == "1"
    assert served(production.status()) == "2"
    endpoint(state).stop()
    assert served(production.status()) == "2"


def test_stop_all_ends_every_server_and_says_which(state: Path, tmp_path: Path) -> None:
    assert stop_all(state) == []
    stand_in = stand_in_release(tmp_path, "1")
    for name, environment in (("flights", "production"), ("flights", "staging"), ("penguins", "staging")):
        release = release_of(Path(stand_in.package_uri), stand_in.digest, "1", name)
        LocalEndpoint(name, state, environment=environment, command=SERVER).stage(release)
    (state / "endpoints" / "staging" / "penguins.json").unlink()
    stopped = stop_all(state)
    assert [(status.name, environment, bool(status.url)) for environment, status in stopped] == [
        ("flights", "production", True),
        ("flights", "staging", True),
        ("penguins", "staging", True),
    ]
    assert stop_all(state) == []
    assert server_processes(state) == []


def test_stop_keeps_the_port_for_the_next_start(state: Path, release: Callable[..., Release]) -> None:
    url = serve(state, release("1")).url
    endpoint(state).stop()
    assert serve(state, release("2")).url == url


def test_what_the_spec_says_of_the_server_reaches_it(state: Path, release: Callable[..., Release]) -> None:
    section = EndpointSection(kind="local", sticky="header:x-customer", isolation="slot")
    production = endpoint(state, environment="production", section=section)
    for version in ("1", "2"):
        production.stage(release(version))
    status = production.shift({ident(release("1")): 50, ident(release("2")): 50})

    def ask(customer: str) -> str:
        answer = call(
            "POST",
            f"{status.url}/v1/models/flights:predict",
            json_bytes({"instances": [ROW]}),
            {"x-customer": customer},
        )
        return answer.headers["x-model-version"]

    first = {customer: ask(customer) for customer in map(str, range(40))}
    assert set(first.values()) == {"1", "2"}
    assert {customer: ask(customer) for customer in first} == first
    log = state / "predictions" / "flights"
    production.stop()
    until(lambda: any(log.rglob("*.parquet")))


def test_a_change_of_the_servers_settings_waits_for_the_next_start(
    state: Path, release: Callable[..., Release], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint(state, section=EndpointSection(kind="local")).stage(release("1"))
    later = endpoint(state, section=EndpointSection(kind="local", sticky="header:x-customer"))
    later.stage(release("1"))
    assert "holds when the server is started next" in caplog.text
    assert "x-customer" not in _command_line(later.status().pid)
    kill_server(state)
    later.stage(release("1"))
    assert "header:x-customer" in _command_line(later.status().pid)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A"])
def test_a_name_that_leads_elsewhere_is_refused(state: Path, name: str) -> None:
    with pytest.raises(InputError, match="endpoint"):
        LocalEndpoint(name, state)


def test_another_environment_is_refused(state: Path) -> None:
    with pytest.raises(InputError, match="expected staging or production"):
        LocalEndpoint("flights", state, environment="elsewhere")


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path, release: Callable[..., Release]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep the endpoint's state"):
        endpoint(tmp_path / "file").stage(release("1"))


def _command_line(pid: int) -> str:
    return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode()


_SCRIPT = """
import os, signal, subprocess, sys
from pathlib import Path
from shipway.endpoints.local import LocalEndpoint
from shipway.endpoints.local_server import LocalServer
from shipway.endpoints.local_state import EndpointFiles
from shipway.endpoints.protocol import revision_id
from shipway.lineage.documents import Release, read_document

state, document, point, act, *command = sys.argv[1:]


def die(here):
    if here == point:
        os.kill(os.getpid(), signal.SIGKILL)


def around(kind, method, before, after):
    original = getattr(kind, method)

    def wrapped(self, *arguments, **options):
        die(before)
        result = original(self, *arguments, **options)
        die(after)
        return result

    setattr(kind, method, wrapped)


around(EndpointFiles, "write", "before intent", "after intent")
for method in ("put", "order"):
    around(LocalServer, method, "before order", "after order")
around(subprocess.Popen, "__init__", "before order", "after order")
endpoint = LocalEndpoint("flights", Path(state), command=command)
release = read_document(Release, document)
revision = revision_id(release.version, release.digest)
if act == "stage":
    endpoint.stage(release)
elif act == "shift":
    endpoint.shift({revision: 100})
else:
    endpoint.retire(revision)
die("after all")
"""


def _elsewhere(state: Path, act: str, release: Release, killed: str = "") -> None:
    """Makes a change in another process, which is killed at a point on its way."""
    document = state.parent / f"release-{release.version}.json"
    release.write(document)
    command = [sys.executable, "-c", _SCRIPT, str(state), str(document), killed, act, *SERVER]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == (-signal.SIGKILL if killed else 0), ended.stderr
