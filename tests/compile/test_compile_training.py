"""The compiled pipeline: one YAML that kfp reads back, Vertex's SDK accepts and whose parts say what they should."""

import json
from pathlib import Path

import pytest
import yaml

from shipway.errors import InputError
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.arguments import training_arguments
from shipway.platforms.compile import Images, compile_pipeline
from shipway.platforms.local import step_names
from shipway.spec import ModelSpec, load_spec

EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples"
STEPS = ["ingest", "validate", "admit", "split", "featurize", "train", "champion", "evaluate", "gate"]
STEPS += ["register", "deploy", "smoke", "notify", "report"]


@pytest.fixture(params=["flights", "penguins"])
def spec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    project = EXAMPLES / request.param
    monkeypatch.setenv(PROJECT_VARIABLE, str(project))
    return load_spec(project / "shipway.yaml")


@pytest.fixture
def compiled(spec: ModelSpec, tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "training.yaml"
    compile_pipeline("training", spec, path)
    return path


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def test_kfp_reads_it_back_and_knows_every_step(compiled: Path, spec: ModelSpec) -> None:
    from kfp import components

    loaded = components.load_component_from_file(str(compiled))
    assert loaded.pipeline_spec.pipeline_info.name == f"{spec.name}-training"
    names = step_names(documents(compiled)[0])
    assert sorted(names) == sorted(STEPS)
    assert [name for name in names if name != "report"] == STEPS[:-1]


def test_the_sections_are_the_parameters_defaults(compiled: Path, spec: ModelSpec) -> None:
    parameters = documents(compiled)[0]["root"]["inputDefinitions"]["parameters"]
    wanted = training_arguments(spec)
    assert {name: parameters[name]["defaultValue"] for name in wanted} == wanted
    assert all(parameters[name]["isOptional"] for name in ("source", "fingerprint"))
    assert all("description" in parameter for parameter in parameters.values())


def test_a_step_sees_only_its_own_sections(compiled: Path) -> None:
    """Changing a gate does not retrain: the train step has no input that a gate reaches."""
    components = documents(compiled)[0]["components"]
    inputs = {
        name: set(components[f"comp-{name}"].get("inputDefinitions", {}).get("parameters", {})) for name in STEPS[:9]
    }
    assert inputs["train"] == {"train"}
    assert "gates" in inputs["gate"]
    assert not any("gates" in found for name, found in inputs.items() if name != "gate")


def test_effects_are_never_cached_and_pure_steps_are(compiled: Path) -> None:
    document = documents(compiled)[0]
    tasks = dict(document["root"]["dag"]["tasks"])
    for component in document["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    cached = {name for name in STEPS if tasks[name].get("cachingOptions", {}).get("enableCache")}
    assert cached == {"ingest", "validate", "split", "featurize", "train", "evaluate", "gate"}


def test_nothing_is_installed_at_run_time_and_images_are_named(spec: ModelSpec, tmp_path: Path) -> None:
    pushed = tmp_path / "images.json"
    # `make push` names every image; the server's and the trigger's are no step's.
    names = {"trainer": "registry.example/team/trainer@sha256:" + "0" * 64, "server": "s", "trigger": "t"}
    pushed.write_text(json.dumps(names))
    path = tmp_path / "training.yaml"
    compile_pipeline("training", spec, path, Images.from_file(pushed, "registry.example/team", "1.2"))
    executors = documents(path)[0]["deploymentSpec"]["executors"]
    images = {name.removeprefix("exec-"): entry["container"]["image"] for name, entry in executors.items()}
    assert images.pop("train") == "registry.example/team/trainer@sha256:" + "0" * 64
    assert {images.pop(step) for step in ("deploy", "smoke")} == {"registry.example/team/deployer:1.2"}
    assert set(images.values()) == {"registry.example/team/components:1.2"}
    assert "pip install" not in path.read_text()


def test_a_bad_image_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    with pytest.raises(InputError, match="no such file of image names"):
        Images.from_file(path)
    path.write_text('{"trianer": "x"}')
    with pytest.raises(InputError, match="unknown image 'trianer'"):
        Images.from_file(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object"):
        Images.from_file(path)


def test_vertex_accepts_the_first_document(compiled: Path, tmp_path: Path) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform

    first = tmp_path / "first.yaml"
    first.write_text(yaml.safe_dump(documents(compiled)[0]))
    job = aiplatform.PipelineJob(
        display_name="training",
        template_path=str(first),
        pipeline_root="gs://bucket/root",
        parameter_values={"source": "gs://bucket/rows/*.parquet"},
        project="project",
        location="europe-west1",
        credentials=AnonymousCredentials(),
    )
    runtime = job._gca_resource.runtime_config
    assert runtime.parameter_values["source"] == "gs://bucket/rows/*.parquet"
    assert job._gca_resource.pipeline_spec["pipelineInfo"]["name"].endswith("-training")


def test_compiling_twice_gives_the_same_bytes(spec: ModelSpec, tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        compile_pipeline("training", spec, tmp_path / name)
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()
