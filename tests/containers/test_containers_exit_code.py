"""The exit code of a container that is gone before anybody asks: kfp takes it for success, Shipway does not."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from shipway.platforms.docker import Sandbox, run_step

pytestmark = pytest.mark.slow
FAST = ["python", "-c", "raise SystemExit(7)"]


class Late:
    """A container of which one is told late: by then it has ended and, where that was asked, is removed."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def wait(self) -> Any:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self._container.reload()
            except docker.errors.NotFound:
                break
            if self._container.status == "exited" and not self._container.attrs["HostConfig"]["AutoRemove"]:
                break
            time.sleep(0.05)
        return self._container.wait()


class LateClient:
    """Docker, with late containers."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.images = client.images
        self.containers = self

    def run(self, **arguments: Any) -> Late:
        return Late(self._client.containers.run(**arguments))

    def create(self, *arguments: Any, **options: Any) -> Late:
        return Late(self._client.containers.create(*arguments, **options))


@pytest.fixture
def client() -> Iterator[LateClient]:
    real = docker.from_env()
    yield LateClient(real)
    real.close()


def test_kfp_takes_a_container_that_is_gone_for_a_success(client: LateClient, images: dict[str, str]) -> None:
    """Once this fails, kfp has mended it (kubeflow/pipelines#13332), and `run_step` need not watch for it."""
    from kfp.local.docker_task_handler import run_docker_container

    assert run_docker_container(client=client, image=images["components"], command=FAST, volumes={}) == 0


def test_shipway_tells_its_exit_code(client: LateClient, images: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "artifacts" / "ingest" / "executor_output.json"
    sandbox = Sandbox(tmp_path, tmp_path, tmp_path, tmp_path / "launch.sock", "rows.csv")
    (tmp_path / "rows.csv").touch()
    sandbox.scratch.mkdir(parents=True)
    told = json.dumps({"outputs": {"outputFile": str(output)}})
    command = [*FAST, "--executor_input", told, "--function_to_execute", "ingest"]
    assert run_step(client, images["components"], command, {}, sandbox) == 7  # type: ignore[arg-type]
    # Nothing of it is left.
    assert not list(sandbox.scratch.iterdir())
    left = client._client.containers.list(all=True, filters={"label": f"shipway.state={tmp_path}"})
    assert left == []
