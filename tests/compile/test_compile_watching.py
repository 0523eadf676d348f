"""The inference and the monitoring pipeline, compiled: shares of a batch, images, caches, and what each is told."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from shipway.errors import InputError, SpecError
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.compile import Images, compile_pipeline
from shipway.platforms.local import step_names
from shipway.platforms.pipelines import Target, find_pipeline, given_parameters
from shipway.platforms.submission import prepare
from shipway.spec import InferenceSection, MonitorSection, NotifySection, load_section, load_spec

PENGUINS = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
KSERVE = "endpoint={kind: kserve, kserve: {prometheus: 'http://prometheus:9090'}}"


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(PENGUINS))


def compiled(name: str, folder: Path, *settings: str, target: Target = "kubeflow", **given: str) -> dict[str, Any]:
    spec = load_spec(PENGUINS / "shipway.yaml", settings)
    images = Images(repository="registry.example/team", tag="9")
    compile_pipeline(name, spec, folder / "one.yaml", images, target=target, given=given)
    document: dict[str, Any] = next(yaml.safe_load_all((folder / "one.yaml").read_text()))
    return document


def defaults(document: dict[str, Any]) -> dict[str, Any]:
    found = document["root"]["inputDefinitions"]["parameters"]
    return {name: entry.get("defaultValue") for name, entry in found.items()}


def tasks(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = dict(document["root"]["dag"]["tasks"])
    for component in document["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return found


def images(document: dict[str, Any]) -> dict[str, str]:
    executors = document["deploymentSpec"]["executors"].items()
    return {name.removeprefix("exec-"): entry["container"]["image"] for name, entry in executors}


def cached(document: dict[str, Any]) -> set[str]:
    return {name for name, task in tasks(document).items() if task.get("cachingOptions", {}).get("enableCache")}


def test_a_batch_is_scored_in_shares_side_by_side(tmp_path: Path) -> None:
    document = compiled("inference", tmp_path, "inference={partitions: 3, max_quarantine: 0.1, version: '4'}")
    names = [name for name in step_names(document) if name != "report"]
    assert names == ["resolve", "ingest", "screen", "predict", "gather"]
    told = defaults(document)
    assert told["partitions"] == ["0/3", "1/3", "2/3"]
    assert told["version"] == "4"
    assert load_section(InferenceSection, told["inference"]).max_quarantine == 0.1
    assert load_section(NotifySection, told["notify"]) == NotifySection()
    assert "endpoint" not in told
    found = tasks(document)
    (loop,) = [task for task in found.values() if "parameterIterator" in task]
    assert loop["taskInfo"]["name"] == "shares"
    assert "partitions" in loop["parameterIterator"]["items"]["inputParameter"]
    collected = found["gather"]["inputs"]["artifacts"]
    assert {collected[name]["taskOutputArtifact"]["producerTask"] for name in ("parts", "profiles")} == {"for-loop-2"}
    assert cached(document) == {"ingest", "screen"}
    retried = {name for name, task in found.items() if "retryPolicy" in task}
    assert retried == {"resolve", "predict", "gather"}
    assert set(images(document).values()) == {"registry.example/team/components:9"}


def test_a_check_is_observed_compared_and_told(tmp_path: Path) -> None:
    document = compiled("monitoring", tmp_path, KSERVE, "monitor.window=6h", until="2026-01-31T12:00")
    assert [name for name in step_names(document) if name != "report"] == ["resolve", "observe", "monitor", "notify"]
    told = defaults(document)
    assert load_section(MonitorSection, told["monitor"]).window == "6h"
    assert (told["version"], told["predictions"], told["until"]) == ("champion", "", "2026-01-31T12:00")
    assert json.loads(told["endpoint"])["endpoint"]["kind"] == "kserve"
    # What production did a moment ago is in no cache.
    assert not cached(document)
    found = images(document)
    assert found.pop("observe") == "registry.example/team/deployer:9"
    assert found.pop("monitor") == "registry.example/team/monitor:9"
    assert set(found.values()) == {"registry.example/team/components:9"}


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
@pytest.mark.parametrize("name", ["inference", "monitoring"])
def test_kfp_and_vertex_accept_them(name: str, target: Target, tmp_path: Path) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from kfp import components

    document = compiled(name, tmp_path, "vertex.variables={MLFLOW_TRACKING_URI: 'https://m'}", target=target)
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(document))
    loaded = components.load_component_from_file(str(tmp_path / "first.yaml"))
    assert loaded.pipeline_spec.pipeline_info.name == f"penguins-{name}"
    values = {"partitions": ["0/2", "1/2"]} if name == "inference" else {"until": "2026-01-31T12:00"}
    job = aiplatform.PipelineJob(
        display_name=name,
        template_path=str(tmp_path / "first.yaml"),
        pipeline_root="gs://bucket/root",
        parameter_values=values,
        project="project",
        location="europe-west1",
        credentials=AnonymousCredentials(),
    )
    assert {key: job._gca_resource.runtime_config.parameter_values[key] for key in values} == values


def submission(name: str, settings: Sequence[str] = (), **options: Any) -> Any:
    wanted = ["data={uri: 'memory://rows/*.parquet', label: species}", *settings]
    return prepare(PENGUINS / "shipway.yaml", "kubeflow", settings=wanted, pipeline=name, **options)


@pytest.fixture
def rows() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/rows/one.parquet", b"PAR1")
    fsspec.filesystem("memory").pipe("/other/one.parquet", b"PAR1")


@pytest.mark.usefixtures("rows")
def test_rows_to_score_are_those_of_the_section_unless_others_are_given() -> None:
    assert submission("inference").arguments["source"] == ""
    elsewhere = ["inference.source=memory://other/*.parquet"]
    assert submission("inference", elsewhere).arguments["source"] == "memory://other/*.parquet"
    given = submission("inference", elsewhere, source="memory://rows/one.parquet")
    assert given.arguments["source"] == "memory://rows/one.parquet"
    with pytest.raises(InputError, match=r"data 'here\.csv' is a path of this machine, which kubeflow cannot read"):
        submission("inference", ["inference.source=here.csv"])
    with pytest.raises(InputError, match=r"inference\.output 'out' would be in the step's own container"):
        submission("inference", ["inference.output=out"])
    assert '"/var/shipway/out"' in str(submission("inference", ["inference.output=/var/shipway/out"]).arguments)


@pytest.mark.usefixtures("rows")
def test_the_next_batch_and_the_next_check_are_runs_of_their_own() -> None:
    assert submission("inference").key != submission("inference").key
    checks = [submission("monitoring", [KSERVE]) for _ in range(2)]
    assert checks[0].key != checks[1].key
    assert submission("monitoring", [KSERVE], key="check-1").run_name == "penguins-monitoring-check-1"
    # A schedule is one thing, however often it is made.
    assert (
        submission("monitoring", [KSERVE], scheduled=True).key == submission("monitoring", [KSERVE], scheduled=True).key
    )


def test_a_check_needs_something_to_look_at() -> None:
    with pytest.raises(SpecError, match=r"pipeline monitoring needs an endpoint.*or batch predictions \(monitor"):
        submission("monitoring")
    told = submission("monitoring", ["monitor.predictions=s3://bucket/scored"]).arguments
    assert (told["endpoint"], told["predictions"]) == ("", "s3://bucket/scored")
    assert submission("monitoring", given={"predictions": "s3://b/c"}).arguments["predictions"] == "s3://b/c"
    with pytest.raises(InputError, match="--data: pipeline monitoring reads no rows"):
        submission("monitoring", [KSERVE], source="memory://rows/*.parquet")


def test_a_person_gives_a_version_a_batch_or_a_moment() -> None:
    assert given_parameters(find_pipeline("inference"), ["version=3"]) == {"version": "3"}
    told = given_parameters(find_pipeline("monitoring"), ["until=2026-01-31T12:00", "predictions=s3://b/c"])
    assert told == {"until": "2026-01-31T12:00", "predictions": "s3://b/c"}
    with pytest.raises(InputError, match="it takes version: the version that scores"):
        given_parameters(find_pipeline("inference"), ["name=other"])


@pytest.mark.parametrize("name", ["inference", "monitoring"])
def test_a_schedule_that_never_comes_true_is_refused(name: str, tmp_path: Path) -> None:
    section = {"inference": "inference", "monitoring": "monitor"}[name]
    with pytest.raises(SpecError, match=rf"^{section}\.schedule: cron '0 3 31 2 \*': it never comes true"):
        compiled(name, tmp_path, KSERVE, f"{section}.schedule=0 3 31 2 *")
    assert find_pipeline(name).schedule(load_spec(PENGUINS / "shipway.yaml"))
    assert not find_pipeline("training").schedule(load_spec(PENGUINS / "shipway.yaml"))
