"""The pipelines promotion and rollback through the real command, under load: promoted, rolled back, refused."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
SHIPWAY = str(Path(sys.executable).parent / "shipway")
ROLLOUT = "rollout={bake: 1s, min_requests: 5, patience: 60s, hold: 5s, keep_warm: 1s, steps: [50, 100], rules: []}"
ROW = {"island": "Biscoe", "bill_length_mm": 47.3, "bill_depth_mm": 13.8, "flipper_length_mm": 216}

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def load(port: int) -> Iterator[None]:
    """Asks the production endpoint again and again, whenever it is there."""
    body = json.dumps({"instances": [{**ROW, "body_mass_g": 4725, "sex": None}]}).encode()
    url = f"http://127.0.0.1:{port}/v1/models/penguins:predict"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_version_is_promoted_rolled_back_and_then_refused(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "penguins")
    port = free_port()
    environment = {**os.environ, "SHIPWAY_PRODUCTION_PORT": str(port)}

    def run(*arguments: str, code: int = 0) -> dict:
        command = [SHIPWAY, "run", "penguins/shipway.yaml", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text())

    try:
        with load(port):
            assert run()["model"]["version"] == "1"
            first = run("--pipeline", "promotion", "--set", ROLLOUT)
            assert (first["outcome"], first["model"]["version"]) == ("promoted", "1")
            assert first["endpoint"] == f"http://127.0.0.1:{port}"
            assert "reports/rollout.html" in first["reports"].values()
            assert run("--set", "train.params.C=0.5")["model"]["version"] == "2"
            second = run("--pipeline", "promotion", "--set", ROLLOUT, "--parameter", "version=2")
            assert (second["outcome"], second["facts"]["candidate"]["stable"]) == ("promoted", "1")
            back = run("--pipeline", "rollback", "--parameter", "reason=it was slow")
            assert (back["outcome"], back["model"]["version"]) == ("rolled_back", "1")
            refused = run("--pipeline", "promotion", "--set", ROLLOUT, "--parameter", "version=2", code=3)
        assert (refused["outcome"], refused["failed_step"]) == ("rejected", "candidate")
        assert "version 2 was rolled back" in refused["reason"][0]
        assert "it was slow" in refused["reason"][0]
        assert {step["name"]: step["status"] for step in refused["steps"]}["rollout"] == "skipped"
    finally:
        subprocess.run([SHIPWAY, "down"], cwd=tmp_path, capture_output=True, check=True)
