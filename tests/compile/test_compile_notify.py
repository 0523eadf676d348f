"""The steps that tell people get what `notify` names, and no other step does."""

from pathlib import Path

import pytest
import yaml

from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms import vertex
from shipway.platforms.compile import compile_pipeline
from shipway.spec import load_spec
from shipway.spec.resources import TELLERS

PROJECT = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
NOTIFY = (
    "notify={secret: shipway-notify, github: {repository: acme/models}, "
    "events: {url: 'https://trigger.example.com/hooks/shipway', token: EVENTS}}"
)
ENDPOINT = "endpoint={kind: kserve, kserve: {namespace: serving}}"


@pytest.fixture(autouse=True)
def project(monkeypatch):
    monkeypatch.setenv(PROJECT_VARIABLE, str(PROJECT))


def documents(folder, pipeline, *settings):
    path = folder / "compiled.yaml"
    compile_pipeline(pipeline, load_spec(PROJECT / "shipway.yaml", settings), path)
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("pipeline", ["training", "promotion", "rollback", "monitoring"])
def test_its_secret_reaches_the_steps_that_tell(pipeline, tmp_path):
    first, second = documents(tmp_path, pipeline, NOTIFY)
    steps = {name.removeprefix("exec-") for name in first["deploymentSpec"]["executors"]}
    executors = second["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    told = {name.removeprefix("exec-"): parts.get("secretAsEnv") for name, parts in executors.items()}
    assert {name for name, secrets in told.items() if secrets} == steps & set(TELLERS)
    (secret,) = told["report"]
    assert (secret["secretName"], secret["optional"]) == ("shipway-notify", True)
    names = {entry["secretKey"]: entry["envVar"] for entry in secret["keyToEnv"]}
    assert names == {name: name for name in ("SHIPWAY_NOTIFY_URLS", "SHIPWAY_GITHUB_TOKEN", "EVENTS")}


def test_a_variable_that_kubeflow_secrets_names_comes_from_there(tmp_path):
    own = "kubeflow.secrets=[{variable: EVENTS, secret: other, key: token, stages: [report]}]"
    _, second = documents(tmp_path, "rollback", NOTIFY, own)
    executors = second["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    given = {
        name: {entry["envVar"]: secret["secretName"] for secret in parts["secretAsEnv"] for entry in secret["keyToEnv"]}
        for name, parts in executors.items()
    }
    assert given["exec-report"]["EVENTS"] == "other"
    assert given["exec-rollback"]["EVENTS"] == "shipway-notify"


def test_vertex_says_what_to_do_about_a_secret():
    asked = [NOTIFY, "vertex.variables={SHIPWAY_NOTIFY_URLS: 'secretmanager:projects/p/secrets/urls'}"]
    (line,) = [
        line for line in vertex.warnings(load_spec(PROJECT / "shipway.yaml", asked)) if line.startswith("notify:")
    ]
    assert "SHIPWAY_GITHUB_TOKEN, EVENTS will not be set" in line
    assert "vertex.variables.SHIPWAY_GITHUB_TOKEN: secretmanager:projects/PROJECT/secrets/NAME" in line
    for settings in ([], ["vertex.variables={SHIPWAY_NOTIFY_URLS: x}", "notify.on=[drift]"]):
        lines = vertex.warnings(load_spec(PROJECT / "shipway.yaml", settings))
        assert not [line for line in lines if line.startswith("notify:")]
