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
from shipway.endpoints.protocol import revision_id
from shipway.errors import InputError, NotBlessedError
from shipway.lineage.documents import Deployment, Release, read_document
from shipway.model.package import Package
from shipway.smoke.smoke import smoke
from shipway.spec import EndpointSection, EndpointSettings
from shipway.spec.parameters import dump_endpoint

LOCAL = dump_endpoint(EndpointSettings(endpoint=EndpointSection(kind="local")))
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return real_release(tmp_path_factory.mktemp("packages"), "1")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return real_release(tmp_path_factory.mktemp("packages"), "2")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "state"
    monkeypatch.setenv("SHIPWAY_STATE", str(folder))
    yield folder
    end_all(folder)


def test_a_release_is_served_and_the_example_can_be_pasted(tmp_path: Path, release: Release) -> None:
    release.write(tmp_path / "release.json")
    result = deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json")
    assert read_document(Deployment, tmp_path / "deployment.json") == result.deployment
    assert (result.deployment.version, result.deployment.changed) == ("1", True)
    assert result.deployment.revision == revision_id("1", release.digest)
    assert (result.deployment.endpoint, result.deployment.previous_revision) == ("local", "")
    answered = subprocess.run(
        ["sh", "-c", result.example], capture_output=True, text=True, timeout=30, check=True
    ).stdout.replace("\r", "")
    head, _, body = answered.partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-model-version: 1" in head
    package = Package.load(release.package_uri)
    own = float(package.predict(package.golden().head(1))[0, 1])
    assert json.loads(body)["predictions"][0]["probability"] == pytest.approx(own, abs=1e-6)
    assert not deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json").deployment.changed


def test_an_unblessed_release_is_refused(state: Path, tmp_path: Path, release: Release) -> None:
    blessing = release.blessing.model_copy(update={"decision": "rejected"})
    release.model_copy(update={"blessing": blessing}).write(tmp_path / "release.json")
    with pytest.raises(NotBlessedError, match="not blessed"):
        deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json")
    assert not (tmp_path / "deployment.json").exists()
    assert server_processes(state) == []


def test_nowhere_is_no_endpoint(tmp_path: Path, release: Release) -> None:
    release.write(tmp_path / "release.json")
    with pytest.raises(InputError, match="endpoint"):
        deploy(tmp_path / "release.json", "", tmp_path / "deployment.json")


def test_what_was_served_stays_there_to_come_back_to(
    state: Path, tmp_path: Path, release: Release, second: Release
) -> None:
    for one in (release, second, second):
        one.write(tmp_path / "release.json")
        result = deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json").deployment
    # The last one found its own, unfinished deploy.
    assert not result.changed
    assert (result.previous_version, result.previous_digest) == ("1", release.digest)
    shares = {revision.id: revision.share for revision in LocalEndpoint("flights", state).status().revisions}
    assert shares == {result.previous_revision: 0, result.revision: 100}


def test_a_deploy_over_one_that_never_passed_its_checks_goes_back_to_the_one_before(
    tmp_path: Path, release: Release, second: Release
) -> None:
    third = release.model_copy(update={"version": "3"})
    release.write(tmp_path / "release.json")
    deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json")
    smoke(tmp_path / "release.json", tmp_path / "deployment.json", LOCAL, tmp_path / "report.html")
    for one in (second, third):
        one.write(tmp_path / "release.json")
        result = deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json").deployment
        assert result.previous_version == "1"
    smoke(tmp_path / "release.json", tmp_path / "deployment.json", LOCAL, tmp_path / "report.html")
    second.write(tmp_path / "release.json")
    result = deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json").deployment
    assert result.previous_version == "3"


def test_the_component_leaves_its_record(tmp_path: Path, release: Release) -> None:
    release.write(tmp_path / "release.json")
    (tmp_path / "out").mkdir()
    artifact = SimpleNamespace(path=str(tmp_path / "out" / "deployment"), metadata={})
    url = deploy_component.python_func(SimpleNamespace(path=str(tmp_path / "release.json")), LOCAL, artifact)
    assert url == LocalEndpoint("flights").status().url
    facts = json.loads((tmp_path / "out" / "step.json").read_text())["facts"]
    assert facts["endpoint"] == url
    assert facts["version"] == "1"
    assert facts["example"].startswith("curl ")
    assert artifact.metadata["digest"] == release.digest
