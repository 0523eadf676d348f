import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving_process import REAL, SECONDS, STAND_IN, serve, until
from serving_stand_in import write_stand_in

from shipway.endpoints.claim import claimant

pytestmark = pytest.mark.slow

ROW = {"delay": 1.0, "holiday": True, "carrier": "AA"}
V1 = "/v1/models/flights:predict"
LOAD = "/v2/repository/models/flights/load"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("correct horse\n")
    return path


def options(package: Path, *more: str) -> list[str]:
    return ["--package", str(package), "--name", "flights", "--version", "1", "--port", "0", *more]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "SHIPWAY_ALLOW_UNBLESSED": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=given, check=False)


def test_a_load_swaps_the_model_and_a_failed_one_leaves_it(tmp_path: Path, token: Path) -> None:
    first = write_stand_in(tmp_path / "one")
    second = write_stand_in(tmp_path / "two", shift=1.0)
    broken = write_stand_in(tmp_path / "broken", mode="misshapen")
    bearer = {"authorization": "Bearer correct horse"}
    with serve(tmp_path, *options(tmp_path / "one", "--digest", first, "--token-file", str(token))) as server:

        def load(folder: str, version: object, digest: object, headers: dict[str, str] = bearer) -> int:
            order = {"path": str(tmp_path / folder), "version": version, "digest": digest}
            return server.post(LOAD, order, headers).status

        def served() -> str:
            return server.post(V1, {"instances": [ROW]}).headers["x-model-version"]

        assert load("two", "2", second, {}) == 401
        assert load("two", "2", second, {"authorization": "Bearer wrong"}) == 401
        assert load("two", "2", second, {"authorization": "Bearer wr\u00f6ng"}) == 401
        assert load("two", "2", first) == 409
        assert load("nowhere", "2", first) == 422
        assert load("broken", "2", broken) == 422
        assert load("two", "2\r\nx-evil: 1", second) == 400
        assert load("two", 2, second) == 400
        assert load("two", "2", "sha256:0") == 400
        assert server.post(LOAD, b"{", bearer).status == 400
        assert server.post(LOAD, b" " * 1_100_000, bearer).status == 413
        assert server.post(LOAD.replace("flights", "other"), {}, bearer).status == 404
        assert served() == "1"
        assert load("two", "2", second) == 200
        assert served() == "2"
        assert (
            server.post(LOAD, {"path": str(tmp_path / "two"), "version": "2", "digest": second}, bearer).json()[
                "changed"
            ]
            is False
        )
        assert server.post("/v2/repository/models/flights/unload", {}, bearer).json()["changed"] is True
        assert server.get("/v2/health/live").status == 200
        assert server.get("/v2/health/ready").status == 503
        assert server.get("/v1/models/flights").status == 503
        assert server.post(V1, {"instances": [ROW]}).status == 503
        assert load("one", "3", first) == 200
        assert served() == "3"
    assert "correct horse" not in (tmp_path / "log").read_text()


def test_no_request_is_dropped_while_models_swap_and_every_answer_is_its_own_versions(
    tmp_path: Path, token: Path
) -> None:
    digests = [write_stand_in(tmp_path / str(number), shift=float(number)) for number in range(2)]
    expected = {"0": 0.731058, "1": 0.880797}
    done = threading.Event()
    with (
        serve(
            tmp_path,
            *["--package", str(tmp_path / "0"), "--name", "flights", "--version", "0", "--port", "0"],
            *["--token-file", str(token)],
        ) as server,
        ThreadPoolExecutor(4) as pool,
    ):

        def ask() -> set[str]:
            seen = set()
            while not done.is_set():
                answer = server.post(V1, {"instances": [ROW]})
                assert answer.status == 200
                version = answer.headers["x-model-version"]
                assert answer.json()["predictions"][0]["probability"] == pytest.approx(expected[version], abs=1e-6)
                seen.add(version)
            return seen

        callers = [pool.submit(ask) for _ in range(4)]
        try:
            for number in range(1, 31):
                which = number % 2
                order = {"path": str(tmp_path / str(which)), "version": str(which), "digest": digests[which]}
                assert server.post(LOAD, order, {"authorization": "Bearer correct horse"}).status == 200
        finally:
            done.set()
        assert set().union(*(caller.result() for caller in callers)) == {"0", "1"}


def test_sigterm_lets_an_open_request_end(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package", mode="slow")
    with serve(tmp_path, *options(tmp_path / "package")) as server, ThreadPoolExecutor(1) as pool:
        body = json.dumps({"instances": [ROW] * 1001}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (V1.encode(), len(body))
            connection.sendall(head + body)
            # It was taken up, because a later request on another connection is answered already.
            assert server.get("/v2/health/live").status == 200
            server.process.send_signal(signal.SIGTERM)
            answer = pool.submit(lambda: connection.makefile("rb").read()).result(SECONDS)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b'"label"') == 1001
        server.process.wait(SECONDS)


def test_it_is_live_before_it_is_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "package").mkdir()
    # The loader reads package.json, which is a pipe here: loading waits until the test writes it.
    (tmp_path / "package" / "package.json").symlink_to(gate)
    script = tmp_path / "waiting.py"
    script.write_text(
        "import sys, pathlib\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from serving_stand_in import StandIn, write_stand_in\n"
        "from shipway.serving.server import main\n"
        "def load(path, digest):\n"
        f"    pathlib.Path({str(gate)!r}).read_text()\n"
        "    target = path.parent / 'real'\n"
        "    write_stand_in(target)\n"
        "    return StandIn(target, None)\n"
        "sys.exit(main(loader=load))\n"
    )
    command = [STAND_IN[0], str(script)]
    with serve(tmp_path, *options(tmp_path / "package"), command=command, wait=False) as server:
        until(lambda: server.get("/v2/health/live").status == 200)
        assert server.get("/v2/health/ready").status == 503
        assert server.post(V1, {"instances": [ROW]}).status == 503
        gate.write_text("go")
        until(server.ready)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_line(tmp_path: Path) -> None:
    digest = write_stand_in(tmp_path / "package")
    ended = run([*STAND_IN, *options(tmp_path / "package", "--digest", digest.replace("sha256:", "sha256:0")[:71])])
    assert ended.returncode == 1
    assert "digest" in ended.stderr
    assert "Traceback" not in ended.stderr
    for arguments, reason in (
        (options(tmp_path / "nowhere"), "no model package there"),
        (options(tmp_path / "package", "--token-file", "/nowhere"), "cannot read /nowhere"),
        (options(tmp_path / "package", "--name", "a b"), "--name"),
        (["--version", "1"], "--package"),
    ):
        ended = run([*STAND_IN, *arguments])
        assert ended.returncode == 2
        assert reason in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run([*STAND_IN, *options(tmp_path / "package", "--port", port)])
        assert ended.returncode == 2
        assert f"127.0.0.1:{port}" in ended.stderr
        with serve(tmp_path, *options(tmp_path / "package", "--prefer-port", port)) as server:
            assert not server.url.endswith(port)


def test_only_one_server_holds_a_claim_and_the_file_is_private(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package")
    with serve(tmp_path, *options(tmp_path / "package")) as server:
        holder = claimant(tmp_path / "claim")
        assert holder is not None
        assert holder.pid == server.process.pid
        assert stat.S_IMODE((tmp_path / "claim").stat().st_mode) == 0o600
        ended = run([*STAND_IN, *options(tmp_path / "package", "--state-file", str(tmp_path / "claim"))])
        assert ended.returncode == 75
        assert "another server process" in ended.stderr
        assert server.get("/v2/health/ready").status == 200
    assert claimant(tmp_path / "claim") is None


def test_a_server_ends_when_its_state_is_removed(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package")
    with serve(tmp_path, *options(tmp_path / "package")) as server:
        (tmp_path / "claim").unlink()
        server.process.wait(SECONDS)
        assert "is gone" in server.log.read_text()


def test_the_environment_of_a_vertex_container(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package")
    environment = {
        "AIP_HTTP_PORT": "0",
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
        "AIP_STORAGE_URI": f"file://{tmp_path / 'package'}",
    }
    with serve(tmp_path, "--host", "127.0.0.1", environment=environment) as server:
        assert server.get(environment["AIP_HEALTH_ROUTE"]).status == 200
        answer = server.post(environment["AIP_PREDICT_ROUTE"], {"instances": [ROW], "parameters": {"a": 1}})
        assert answer.status == 200
        assert answer.json()["predictions"][0]["label"] == "late"
        assert answer.headers["x-model-name"] == "flights"
        assert server.post(V1, {"instances": [ROW]}).status == 200
    ended = run(STAND_IN, AIP_HTTP_PORT="eighty", AIP_STORAGE_URI=str(tmp_path / "package"))
    assert ended.returncode == 2
    assert "eighty" in ended.stderr


def test_a_package_is_fetched_from_a_remote_uri(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package")
    # fsspec's `local` is a protocol of its own for the server: no plain path, and no file: URI.
    with serve(tmp_path, *options(Path("x"), "--package", f"local://{tmp_path / 'package'}")) as server:
        assert server.post(V1, {"instances": [ROW]}).status == 200
    for uri in (f"local://{tmp_path / 'nowhere'}", "no-such-protocol://bucket/model"):
        ended = run([*STAND_IN, *options(Path("x"), "--package", uri)])
        assert ended.returncode == 2
        assert uri in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_slow_body_is_given_up(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package")
    with serve(tmp_path, *options(tmp_path / "package", "--max-body-seconds", "0.2")) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{" % V1.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_starting_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, shipway.serving.server\n"
        "heavy = {'sklearn', 'torch', 'mlflow', 'pandas', 'polars', 'onnx', 'onnxruntime', 'pandera', 'kfp'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = run([REAL[0], "-c", code])
    assert ended.stdout.strip() == "[]", ended.stderr
    begun = time.perf_counter()
    write_stand_in(tmp_path / "package")
    with serve(tmp_path, *options(tmp_path / "package")):
        assert time.perf_counter() - begun < SECONDS
