"""The promotion and the rollback pipeline, compiled, and what each pipeline is told of the endpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from shipway.errors import InputError, SpecError
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.compile import Images, compile_pipeline
from shipway.platforms.local import step_names
from shipway.platforms.pipelines import PIPELINES, Target, find_pipeline, given_parameters
from shipway.spec import RolloutSection, load_endpoint, load_section, load_spec

WITH_ENDPOINT = [name for name, entry in PIPELINES.items() if entry.endpoint != "none"]
PENGUINS = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
KSERVE = "endpoint={kind: kserve, kserve: {prometheus: 'http://prometheus:9090'}}"


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(PENGUINS))


def compiled(name: str, folder: Path, *settings: str, target: Target = "kubeflow", **given: str) -> list[Any]:
    spec = load_spec(PENGUINS / "shipway.yaml", settings)
    images = Images(repository="registry.example/team", tag="9")
    compile_pipeline(name, spec, folder / "one.yaml", images, target=target, given=given)
    return list(yaml.safe_load_all((folder / "one.yaml").read_text()))


def defaults(document: dict[str, Any]) -> dict[str, str]:
    found = document["root"]["inputDefinitions"]["parameters"]
    return {name: entry["defaultValue"] for name, entry in found.items()}


def test_a_promotion_is_chosen_approved_and_rolled_out(tmp_path: Path) -> None:
    (document,) = compiled("promotion", tmp_path, KSERVE, "rollout.steps=[10, 100]", version="3")
    assert [name for name in step_names(document) if name != "report"] == ["candidate", "approval", "rollout"]
    told = defaults(document)
    assert (told["name"], told["version"], told["override"]) == ("penguins", "3", "")
    assert load_section(RolloutSection, told["rollout"]).steps == [10, 100]
    images = {name: entry["container"]["image"] for name, entry in document["deploymentSpec"]["executors"].items()}
    assert images["exec-rollout"] == "registry.example/team/deployer:9"
    assert images["exec-candidate"] == images["exec-approval"] == "registry.example/team/components:9"
    (inner,) = [entry["dag"]["tasks"] for entry in document["components"].values() if "dag" in entry]
    assert "approval" in inner["rollout"]["dependentTasks"]
    # Looking a version up may be tried again; a verdict may not.
    assert [name for name, task in inner.items() if "retryPolicy" in task] == ["candidate"]
    assert not any(task["cachingOptions"].get("enableCache") for task in inner.values())


def test_a_rollback_is_one_step_that_is_tried_again(tmp_path: Path) -> None:
    (document,) = compiled("rollback", tmp_path, KSERVE, reason="slow")
    assert sorted(step_names(document)) == ["report", "rollback"]
    assert defaults(document)["reason"] == "slow"
    (inner,) = [entry["dag"]["tasks"] for entry in document["components"].values() if "dag" in entry]
    assert inner["rollback"]["retryPolicy"]["maxRetryCount"] == 3
    (off,) = compiled("rollback", tmp_path, KSERVE, "kubeflow.retries=0")
    assert "retryPolicy" not in json.dumps(off)


@pytest.mark.parametrize("name", PIPELINES)
def test_what_ends_a_training_does_not_cut_a_rollout_off(name: str, tmp_path: Path) -> None:
    settings = ["kubeflow.deadline=1h", "kubeflow.ttl=7d", "resources.default.timeout=1h"]
    _, platform = compiled(name, tmp_path, *settings)
    found = platform["platforms"]["kubernetes"]
    assert len(found["pipelineConfig"]) == (1 if name in ("promotion", "rollback") else 2)
    ended = {
        step.removeprefix("exec-"): int(entry["activeDeadlineSeconds"])
        for step, entry in found["deploymentSpec"]["executors"].items()
        if "activeDeadlineSeconds" in entry
    }
    assert "rollout" not in ended
    assert set(ended.values()) == {3600}


def test_a_rollout_has_the_timeout_of_its_own(tmp_path: Path) -> None:
    _, platform = compiled("promotion", tmp_path, "resources.rollout.timeout=2d")
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-rollout"]["activeDeadlineSeconds"] == str(2 * 86400)


@pytest.mark.parametrize("name", WITH_ENDPOINT)
def test_the_endpoint_is_that_of_the_target(name: str, tmp_path: Path) -> None:
    text = defaults(compiled(name, tmp_path, KSERVE)[0])["endpoint"]
    settings = load_endpoint(text)
    assert (settings.endpoint.kind, settings.image) == ("kserve", "registry.example/team/server:9")
    assert settings.endpoint.kserve.prometheus == "http://prometheus:9090"
    # A run on this machine is served on this machine.
    text = defaults(compiled(name, tmp_path, KSERVE, target="local")[0])["endpoint"]
    assert load_endpoint(text).endpoint.kind == "local"
    assert defaults(compiled(name, tmp_path)[0])["endpoint"] == ""


def test_vertex_is_told_of_project_and_region(tmp_path: Path) -> None:
    where = ("vertex.project=our-project", "vertex.location=europe-west4", "endpoint.kind=vertex")
    for target in ("kubeflow", "vertex"):
        settings = load_endpoint(defaults(compiled("promotion", tmp_path, *where, target=target)[0])["endpoint"])
        assert (settings.vertex.project, settings.vertex.location) == ("our-project", "europe-west4")


@pytest.mark.parametrize(
    ("kind", "target", "right"),
    [("local", "kubeflow", "kserve or vertex"), ("local", "vertex", "vertex"), (KSERVE, "vertex", "vertex")],
)
def test_an_endpoint_out_of_reach_is_refused(kind: str, target: Target, right: str, tmp_path: Path) -> None:
    setting = kind if "=" in kind else f"endpoint.kind={kind}"
    for name in WITH_ENDPOINT:
        with pytest.raises(SpecError, match=rf"^endpoint\.kind: .*; expected {right}, or none to deploy nowhere$"):
            compiled(name, tmp_path, setting, target=target)


def test_what_the_endpoint_cannot_do_is_refused_before_a_promotion(tmp_path: Path) -> None:
    assert compiled("training", tmp_path, "endpoint.kind=kserve")
    with pytest.raises(SpecError, match=r"^endpoint\.kserve\.prometheus: missing"):
        compiled("promotion", tmp_path, "endpoint.kind=kserve")
    assert compiled("promotion", tmp_path, "endpoint.kind=kserve", target="local")


def test_a_person_gives_only_what_a_pipeline_takes() -> None:
    promotion = find_pipeline("promotion")
    assert given_parameters(promotion, ["version=3"]) == {"version": "3"}
    told = given_parameters(promotion, ["override=it was the data = not the model"])
    assert told["override"] == "it was the data = not the model"
    assert told["who"]
    for settings, said in (
        (["versoin=3"], "did you mean 'version'?"),
        (["version"], "expected NAME=VALUE of pipeline promotion"),
        (["name=other"], "it takes version: "),
        (["version=1", "version=2"], "--parameter version: given twice"),
    ):
        with pytest.raises(InputError) as caught:
            given_parameters(promotion, settings)
        assert said in str(caught.value)
    with pytest.raises(InputError, match="it takes none"):
        given_parameters(find_pipeline("training"), ["version=3"])
    with pytest.raises(InputError, match=r"expected training, .*, monitoring, found 'promote'; did you mean"):
        find_pipeline("promote")
