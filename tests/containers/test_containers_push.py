"""Pushing to a real registry (Debian's docker-registry), and compiling with the digests that it gave."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import engine
import pytest
import yaml

pytestmark = pytest.mark.slow
CONFIGURATION = "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry on this machine (apt-get install docker-registry)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = tmp_path / "registry.yml"
    settings.write_text(CONFIGURATION.format(root=tmp_path / "blobs", port=port))
    process = subprocess.Popen(["docker-registry", "serve", str(settings)], stderr=subprocess.DEVNULL)
    try:
        wait_until_answers(f"http://127.0.0.1:{port}/v2/")
        # Docker takes a registry on loopback without TLS.
        yield f"127.0.0.1:{port}/team"
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_pushed_images_are_named_by_digest(images: dict[str, str], registry: str, tmp_path: Path) -> None:
    names = tmp_path / "images.json"
    command = [sys.executable, "containers/images.py", "push", "--repository", engine.REPOSITORY]
    command += ["--registry", registry, "--output", str(names), "components", "server"]
    done = subprocess.run(command, cwd=engine.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pushed = json.loads(names.read_text())
    assert set(pushed) == {"components", "server"}
    assert all(name.startswith(f"{registry}/{image}@sha256:") for image, name in pushed.items())
    spec = engine.ROOT / engine.PROJECT / "shipway.yaml"
    compiled = tmp_path / "training.yaml"
    done = engine.shipway(tmp_path, "compile", str(spec), "--output", str(compiled), "--images", str(names))
    assert done.returncode == 0, done.stderr
    executors = next(yaml.safe_load_all(compiled.read_text()))["deploymentSpec"]["executors"]
    used = {name: entry["container"]["image"] for name, entry in executors.items()}
    assert used.pop("exec-train").startswith("shipway/trainer:")
    assert all(used.pop(f"exec-{step}").startswith("shipway/deployer:") for step in ("deploy", "smoke"))
    assert set(used.values()) == {pushed["components"]}
    # The registry has what the name says.
    local = engine.inspect(images["components"])["Id"]
    engine.docker("image", "rm", pushed["components"])
    engine.docker("pull", "--quiet", pushed["components"])
    assert engine.inspect(pushed["components"])["Id"] == local


def wait_until_answers(url: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)
