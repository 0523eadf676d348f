"""Whole runs of the penguins with every step in its image: shipped, rejected, crashed, confined, killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import engine
import pytest

SHIPWAY = str(Path(sys.executable).parent / "shipway")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("images")]


@dataclass
class Project:
    """A copy of the penguins in a folder of its own, with its own state."""

    folder: Path
    names: tuple[str, ...] = field(default=("--runner", "docker", "--repository", engine.REPOSITORY))

    @property
    def spec(self) -> Path:
        return self.folder / "penguins" / "shipway.yaml"

    @property
    def state(self) -> Path:
        return self.folder / ".shipway"

    def run(self, *arguments: str, code: int = 0, environment: dict[str, str] | None = None) -> dict:
        done = engine.shipway(self.folder, "run", str(self.spec), *self.names, *arguments, environment=environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return json.loads((self.folder / "runs" / "latest" / "summary.json").read_text())

    def without_containers(self, *arguments: str) -> dict:
        done = engine.shipway(self.folder, "run", str(self.spec), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((self.folder / "runs" / "latest" / "summary.json").read_text())

    def containers(self) -> list[str]:
        listed = engine.docker("ps", "--all", "--quiet", "--filter", f"label=shipway.state={self.state}").stdout
        return listed.split()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(engine.ROOT / engine.PROJECT, tmp_path / "penguins")
    yield Project(tmp_path)
    engine.shipway(tmp_path, "down")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, dict]]:
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(engine.ROOT / engine.PROJECT, folder / "penguins")
    project = Project(folder)
    yield project, project.run()
    engine.shipway(folder, "down")


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), "MLflow")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def test_it_ships_the_model_that_a_run_without_containers_ships(shipped: tuple[Project, dict], tmp_path: Path) -> None:
    project, summary = shipped
    assert summary["outcome"] == "shipped"
    shutil.copytree(project.folder / "penguins", tmp_path / "penguins")
    plain = Project(tmp_path)
    other = plain.without_containers()
    engine.shipway(tmp_path, "down")
    assert summary["model"]["digest"] == other["model"]["digest"]
    assert summary["data_version"] == other["data_version"]
    assert summary["gates"] == other["gates"]


def test_the_server_outlives_the_run_in_a_container_of_its_own(shipped: tuple[Project, dict]) -> None:
    project, summary = shipped
    with urllib.request.urlopen(f"{summary['endpoint']}/v2/models/penguins/ready", timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers["x-model-digest"] == summary["model"]["digest"]
    servers = engine.docker("ps", "--filter", "name=shipway-server-", "--format", "{{.Names}}").stdout.split()
    mounted = [engine.docker("inspect", "--format", "{{json .Mounts}}", name).stdout for name in servers]
    assert sum(str(project.state) in mounts for mounts in mounted) == 1
    # Nothing of the steps is left.
    assert project.containers() == []
    assert not list((project.state / "scratch").iterdir())


def test_a_second_run_comes_from_the_cache_and_down_ends_the_server(shipped: tuple[Project, dict]) -> None:
    project, first = shipped
    second = project.run()
    cached = {step["name"] for step in second["steps"] if step["cached"]}
    assert cached == {"ingest", "validate", "split", "featurize", "train", "evaluate", "gate"}
    assert second["model"] == {**first["model"], "new_version": False}
    assert second["endpoint"] == first["endpoint"]
    done = engine.shipway(project.folder, "down")
    assert "stopped penguins" in done.stdout
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{first['endpoint']}/v2/health/ready", timeout=5)
    assert project.run()["outcome"] == "shipped"


def test_the_champion_of_the_local_registry_is_scored_beside_the_challenger(shipped: tuple[Project, dict]) -> None:
    project, _ = shipped
    program = "from shipway.model.registry import set_alias; set_alias('penguins', 'champion', '1')"
    environment = {**os.environ, "SHIPWAY_STATE": str(project.state)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, cwd=project.folder)
    summary = project.run("--set", "train.params.C=0.5")
    champion = [rule for rule in summary["gates"] if "champion" in rule["rule"]]
    assert [(rule["passed"], rule["note"]) for rule in champion] == [(True, champion[0]["note"])]
    assert champion[0]["value"] is not None
    assert summary["model"]["version"] == "2"


def test_an_mlflow_server_is_reached_by_the_steps_that_need_it(project: Project, mlflow_server: str) -> None:
    """Its artifacts too: the second run's evaluate fetches the champion from it."""
    environment = {"MLFLOW_TRACKING_URI": mlflow_server}
    assert project.run(environment=environment)["model"]["version"] == "1"
    assert not (project.state / "mlflow.db").exists()
    program = "from shipway.model.registry import set_alias; set_alias('penguins', 'champion', '1')"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, check=True)
    summary = project.run("--set", "train.params.C=0.5", environment=environment)
    (champion,) = [rule for rule in summary["gates"] if "champion" in rule["rule"]]
    assert champion["value"] is not None


def test_a_gate_rejects(project: Project) -> None:
    summary = project.run("--set", "gates=[{metric: accuracy, min: 1.0}, {metric: log_loss, max: 0.0001}]", code=3)
    assert summary["outcome"] == "rejected"
    assert any("log_loss <= 0.0001" in reason for reason in summary["reason"])
    assert {step["name"]: step["status"] for step in summary["steps"]}["register"] == "skipped"


def test_a_step_that_crashes_fails_the_run_with_its_reason(project: Project) -> None:
    change(project, "raise LookupError('no such penguin')")
    summary = project.run(code=1)
    assert summary["failed_step"] == "ingest"
    assert any("no such penguin" in reason and "loader.py" in reason for reason in summary["reason"])


def test_a_step_whose_process_is_killed_fails_the_run(project: Project) -> None:
    change(project, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    summary = project.run(code=1)
    assert summary["failed_step"] == "ingest"
    assert any("without a word of its own" in reason for reason in summary["reason"])


def test_a_step_cannot_write_outside_its_places(project: Project) -> None:
    outside = project.folder / "penguins" / "written"
    change(project, f"open({str(outside)!r}, 'w')")
    summary = project.run(code=1)
    assert any("Read-only file system" in reason for reason in summary["reason"])
    assert not outside.exists()
    change(project, "open('/opt/shipway/shipway/errors.py', 'a')")
    summary = project.run(code=1)
    assert any("Read-only file system" in reason for reason in summary["reason"])


def test_a_pure_step_has_no_network(project: Project) -> None:
    """featurize runs the user's transformer, which here calls a server of this machine."""
    heard: list[bytes] = []
    with listening(heard) as port:
        features = project.spec.parent / "features.py"
        call = f"import socket\n    socket.create_connection(('127.0.0.1', {port}), 5).sendall(b'data')\n"
        text = features.read_text()
        marker = "def transformer("
        head, rest = text.split(marker)
        signature, body = rest.split(":\n", 1)
        features.write_text(f"{head}{marker}{signature}:\n    {call}{body}")
        summary = project.run(code=1)
        assert summary["failed_step"] == "featurize"
        assert any("refused" in reason or "unreachable" in reason for reason in summary["reason"])
        assert heard == []
        # The same call is heard where nothing keeps it from the network, so the server was there to hear it.
        assert engine.shipway(project.folder, "run", str(project.spec)).returncode == 0
        assert heard
    engine.shipway(project.folder, "down")


def test_a_killed_run_leaves_no_step_behind(project: Project) -> None:
    change(project, "import time; time.sleep(600)")
    command = [SHIPWAY, "run", str(project.spec), *project.names]
    run = subprocess.Popen(command, cwd=project.folder, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: running(project), "the step's container")
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=30)
        wait_for(lambda: not running(project), "the container's end")
    finally:
        run.kill()
    assert project.containers()
    shutil.copy(engine.ROOT / engine.PROJECT / "loader.py", project.spec.parent / "loader.py")
    assert project.run()["outcome"] == "shipped"
    assert project.containers() == []


def test_images_that_lack_the_projects_packages_are_refused(project: Project) -> None:
    requirements = project.spec.parent / "requirements.txt"
    requirements.write_text(requirements.read_text() + "\n# another package\n")
    done = engine.shipway(project.folder, "run", str(project.spec), *project.names)
    assert done.returncode == 2
    assert "lacks the packages of" in done.stderr
    assert "make images PROJECT=" in done.stderr


def test_a_missing_image_and_a_missing_engine_are_told(project: Project) -> None:
    done = engine.shipway(project.folder, "run", str(project.spec), "--runner", "docker", "--tag", "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no image shipway/components:nowhere on this machine; build it with: make images" in done.stderr
    environment = {**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:9"}
    done = subprocess.run(
        [SHIPWAY, "run", str(project.spec), *project.names],
        cwd=project.folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no Docker engine answers here" in done.stderr


def change(project: Project, statement: str) -> None:
    """Lets the loader begin with a statement."""
    text = (engine.ROOT / engine.PROJECT / "loader.py").read_text()
    begin = "def load() -> pl.DataFrame:\n"
    assert begin in text
    (project.spec.parent / "loader.py").write_text(text.replace(begin, f"{begin}    {statement}\n"))


def running(project: Project) -> list[str]:
    listed = engine.docker("ps", "--quiet", "--filter", f"label=shipway.state={project.state}")
    return listed.stdout.split()


def wait_for(condition: object, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def test_a_registry_that_containers_do_not_see_is_refused(project: Project) -> None:
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{project.folder}/elsewhere.db"}
    done = engine.shipway(project.folder, "run", str(project.spec), *project.names, environment=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "MLFLOW_TRACKING_URI names a file" in done.stderr


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def listening(heard: list[bytes]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
