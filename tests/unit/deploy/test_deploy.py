import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving_real import real_release
from serving_releases import end_all, server_processes

from shipway.deploy.component import deploy as deploy_component
from shipway.deploy.deploy import deploy
from shipway.endpoints.local import LocalEndpoint
from shipway.errors import NotBlessedError
from shipway.lineage.documents import Deployment, Release, read_document
from shipway.model.package import Package

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return real_release(tmp_path_factory.mktemp("packages"), "1")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "state"
    monkeypatch.setenv("SHIPWAY_STATE", str(folder))
    yield folder
    end_all(folder)


def test_a_release_is_served_and_the_example_can_be_pasted(tmp_path: Path, release: Release) -> None:
    release.write(tmp_path / "release.json")
    result = deploy(tmp_path / "release.json", tmp_path / "deployment.json")
    assert read_document(Deployment, tmp_path / "deployment.json") == result.deployment
    assert (result.deployment.version, result.deployment.changed) == ("1", True)
    answered = subprocess.run(
        ["sh", "-c", result.example], capture_output=True, text=True, timeout=30, check=True
    ).stdout.replace("\r", "")
    head, _, body = answered.partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-model-version: 1" in head
    package = Package.load(release.package_uri)
    own = float(package.predict(package.golden().head(1))[0, 1])
    assert json.loads(body)["predictions"][0]["probability"] == pytest.approx(own, abs=1e-6)
    assert not deploy(tmp_path / "release.json", tmp_path / "deployment.json").deployment.changed


def test_an_unblessed_release_is_refused(state: Path, tmp_path: Path, release: Release) -> None:
    blessing = release.blessing.model_copy(update={"decision": "rejected"})
    release.model_copy(update={"blessing": blessing}).write(tmp_path / "release.json")
    with pytest.raises(NotBlessedError, match="not blessed"):
        deploy(tmp_path / "release.json", tmp_path / "deployment.json")
    assert not (tmp_path / "deployment.json").exists()
    assert server_processes(state) == []


def test_the_component_leaves_its_record(tmp_path: Path, release: Release) -> None:
    release.write(tmp_path / "release.json")
    (tmp_path / "out").mkdir()
    artifact = SimpleNamespace(path=str(tmp_path / "out" / "deployment"), metadata={})
    url = deploy_component.python_func(SimpleNamespace(path=str(tmp_path / "release.json")), artifact)
    assert url == LocalEndpoint("flights").status().url
    facts = json.loads((tmp_path / "out" / "step.json").read_text())["facts"]
    assert facts["endpoint"] == url
    assert facts["version"] == "1"
    assert facts["example"].startswith("curl ")
    assert artifact.metadata["digest"] == release.digest
