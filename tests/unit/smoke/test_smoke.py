import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_process import until
from serving_real import real_release
from serving_releases import end_all, server_processes

from shipway.deploy.deploy import deploy
from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.local import LocalEndpoint
from shipway.errors import InputError, RejectedError
from shipway.lineage.documents import Release
from shipway.smoke.smoke import SmokeResult, smoke
from shipway.spec import EndpointSection, EndpointSettings
from shipway.spec.parameters import dump_endpoint

LOCAL = dump_endpoint(EndpointSettings(endpoint=EndpointSection(kind="local")))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        "1": real_release(folder, "1"),
        "2": real_release(folder, "2"),
        "multiclass": real_release(folder, "3", "multiclass"),
        "regression": real_release(folder, "4", "regression"),
    }


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "state"
    monkeypatch.setenv("SHIPWAY_STATE", str(folder))
    yield folder
    end_all(folder)


def sabotaged(fault: str, release: Release) -> LocalEndpoint:
    script = Path(__file__).with_name("smoke_sabotage.py")
    return LocalEndpoint("flights", command=[sys.executable, "-P", str(script), fault, release.digest])


def ship(folder: Path, release: Release, endpoint: LocalEndpoint | None = None) -> SmokeResult:
    """Deploys and smokes as the pipeline does, through documents."""
    release.write(folder / "release.json")
    deploy(folder / "release.json", LOCAL, folder / "deployment.json", endpoint)
    return smoke(folder / "release.json", folder / "deployment.json", LOCAL, folder / "report.html", endpoint)


def predicts_as(release: Release) -> bool:
    """Tells whether the endpoint answers with this release's version and prediction."""
    from shipway.model.package import Package

    package = Package.load(release.package_uri)
    golden = package.golden().head(1)
    body = json_bytes({"instances": golden.to_dicts()})
    answer = call("POST", f"{LocalEndpoint('flights').status().url}/v1/models/flights:predict", body)
    found = answer.json()["predictions"][0]["probability"]
    own = float(package.predict(golden)[0, 1])
    return answer.headers["x-model-digest"] == release.digest and found == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("task", ["1", "multiclass", "regression"])
def test_a_good_release_passes_and_again_changes_nothing(
    state: Path, tmp_path: Path, releases: dict[str, Release], task: str
) -> None:
    result = ship(tmp_path, releases[task])
    names = [check.name for check in result.checks]
    assert len([name for name in names if name.startswith("canonical request")]) == 40
    for wanted in (
        "empty body",
        "no rows",
        "broken JSON",
        "missing feature",
        "wrong type",
        "oversized",
        "unknown category",
    ):
        assert any(wanted in name for name in names), wanted
    assert all(check.passed for check in result.checks)
    status = LocalEndpoint("flights").status()
    assert [(found.version, found.share) for found in status.revisions] == [(releases[task].version, 100)]
    again = ship(tmp_path, releases[task])
    assert not again.deployment.changed
    assert LocalEndpoint("flights").status() == status
    assert server_processes(state) == [status.pid]
    page = (tmp_path / "report.html").read_text()
    assert "canonical request 20, V2" in page
    assert "passed" in page


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("shifted", "canonical request 1, V1: "),
        ("lenient", "missing feature delay: status 200"),
        (
            "unseen",
            "unknown category in carrier: version 1 answered instead; asked itself, version 2 answers with status 500",
        ),
        (
            "dies",
            "canonical request 9, V1: version 1 answered instead; asked itself, version 2 answers with status 503",
        ),
    ],
)
def test_a_bad_deployment_is_taken_back(
    state: Path, tmp_path: Path, releases: dict[str, Release], fault: str, told: str
) -> None:
    endpoint = sabotaged(fault, releases["2"])
    ship(tmp_path, releases["1"], endpoint)
    with pytest.raises(RejectedError) as raised:
        ship(tmp_path, releases["2"], endpoint)
    assert raised.value.exit_code == 3
    lines = str(raised.value).splitlines()
    assert "smoke checks failed for flights version 2; version 1 is served again" in lines[0]
    assert any(line.startswith(told) for line in lines), lines
    status = LocalEndpoint("flights").status()
    assert [(found.version, found.share, found.ready) for found in status.revisions] == [("1", 100, True)]
    assert predicts_as(releases["1"])
    assert len(server_processes(state)) == 1
    page = (tmp_path / "report.html").read_text()
    assert "version 1 is served again" in page
    assert "failed" in page


def test_a_bad_first_deployment_leaves_nothing_served(
    state: Path, tmp_path: Path, releases: dict[str, Release]
) -> None:
    with pytest.raises(RejectedError, match="nothing was served before it, and nothing is now"):
        ship(tmp_path, releases["1"], sabotaged("shifted", releases["1"]))
    until(lambda: not server_processes(state))


def test_a_bad_deployment_over_nothing_verified_keeps_what_was_served(
    tmp_path: Path, releases: dict[str, Release]
) -> None:
    endpoint = sabotaged("shifted", releases["2"])
    releases["1"].write(tmp_path / "release.json")
    deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json", endpoint)
    with pytest.raises(RejectedError, match="version 1 is served again"):
        ship(tmp_path, releases["2"], endpoint)
    assert predicts_as(releases["1"])


def test_a_server_that_died_since_is_told_and_the_earlier_version_started(
    state: Path, tmp_path: Path, releases: dict[str, Release]
) -> None:
    ship(tmp_path, releases["1"])
    releases["2"].write(tmp_path / "release.json")
    deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json")
    os.kill(LocalEndpoint("flights").status().pid, signal.SIGKILL)
    until(lambda: not server_processes(state))
    with pytest.raises(RejectedError, match="not run: the server does not answer"):
        smoke(tmp_path / "release.json", tmp_path / "deployment.json", LOCAL, tmp_path / "report.html")
    assert predicts_as(releases["1"])


def test_a_version_that_passed_is_the_only_one_left(tmp_path: Path, releases: dict[str, Release]) -> None:
    ship(tmp_path, releases["1"])
    result = ship(tmp_path, releases["2"])
    assert (result.deployment.previous_version, result.deployment.changed) == ("1", True)
    status = LocalEndpoint("flights").status()
    assert [(found.version, found.share) for found in status.revisions] == [("2", 100)]
    assert predicts_as(releases["2"])


def test_a_version_that_passed_is_named_in_the_registry(tmp_path: Path, releases: dict[str, Release]) -> None:
    from shipway.lineage.tracking import client, tracking_uri
    from shipway.model.registry import DIGEST_TAG

    registry, release = client(), releases["1"]
    registry.create_registered_model("flights")
    registry.create_model_version("flights", release.package_uri, tags={DIGEST_TAG: release.digest})
    ship(tmp_path, release.model_copy(update={"tracking_uri": tracking_uri()}))
    assert registry.get_model_version_by_alias("flights", "staging-verified").version == 1


def test_an_earlier_version_that_cannot_come_back_is_told(
    state: Path, tmp_path: Path, releases: dict[str, Release]
) -> None:
    endpoint = sabotaged("shifted", releases["2"])
    ship(tmp_path, releases["1"], endpoint)
    releases["2"].write(tmp_path / "release.json")
    deploy(tmp_path / "release.json", LOCAL, tmp_path / "deployment.json", endpoint)
    path = state / "endpoints" / "staging" / "flights.json"
    path.write_text("{}")
    (state / "endpoints" / "staging" / "flights.token").unlink()
    with pytest.raises(RejectedError, match="could not be put back"):
        smoke(tmp_path / "release.json", tmp_path / "deployment.json", LOCAL, tmp_path / "report.html", endpoint)
    assert "could not be put back" in (tmp_path / "report.html").read_text()


def test_what_was_deployed_since_stays(tmp_path: Path, releases: dict[str, Release]) -> None:
    endpoint = sabotaged("shifted", releases["2"])
    ship(tmp_path, releases["1"], endpoint)
    releases["2"].write(tmp_path / "bad.json")
    deploy(tmp_path / "bad.json", LOCAL, tmp_path / "deployment.json", endpoint)
    later = releases["1"].model_copy(update={"version": "7"})
    later.write(tmp_path / "later.json")
    deploy(tmp_path / "later.json", LOCAL, tmp_path / "later-deployment.json", endpoint)
    with pytest.raises(RejectedError, match="version 7 was deployed since, and is served"):
        smoke(tmp_path / "bad.json", tmp_path / "deployment.json", LOCAL, tmp_path / "report.html", endpoint)
    assert predicts_as(later)


def test_missing_documents_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such Release document"):
        smoke(tmp_path / "none.json", tmp_path / "none.json", LOCAL, tmp_path / "report.html")
