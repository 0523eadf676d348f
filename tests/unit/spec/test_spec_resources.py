"""The sections `resources`, `kubeflow` and `vertex`: what a step gets, and what is refused with which words."""

from pathlib import Path
from typing import get_args

import pytest

from shipway.errors import SpecError
from shipway.spec import ModelSpec, load_spec
from shipway.spec.resources import EFFECTS, Step, cpu_cores, duration_seconds, memory_bytes

SPEC = """\
name: birds
task: binary
data: {uri: "data/*.parquet", label: late, key: id}
schema: {pandera: schema.yaml}
split: {by: hash}
train: {trainer: torch}
resources:
  default: {cpu: 500m, memory: 2Gi}
  train: {cpu: 8, accelerator: {type: T4, count: 2}}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "shipway.yaml"
    path.write_text(SPEC)
    return path


def refused(path: Path, *settings: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path, settings)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix(f"{path}:")


def test_a_step_gets_its_own_settings_over_the_defaults(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    train, gate = spec.resources_of("train"), spec.resources_of("gate")
    assert (train.cpu, train.memory) == ("8", "2Gi")
    assert train.accelerator is not None
    assert train.accelerator.count == 2
    assert (gate.cpu, gate.memory, gate.accelerator) == ("500m", "2Gi", None)
    cleared = load_spec(spec_file, ["resources.gate.memory=null"])
    assert cleared.resources_of("gate").memory is None


def test_spot_by_default_leaves_out_the_steps_with_effects(spec_file: Path) -> None:
    spec = load_spec(spec_file, ["resources.default.spot=true"])
    on_spot = {step for step in get_args(Step) if spec.resources_of(step).spot}
    assert on_spot == set(get_args(Step)) - set(EFFECTS)


def test_nothing_set_asks_for_nothing(spec_file: Path) -> None:
    spec = ModelSpec.model_validate({**load_spec(spec_file).model_dump(by_alias=True), "resources": {}})
    for step in get_args(Step):
        assert not any(spec.resources_of(step).model_dump().values())
    assert spec.kubeflow.ttl is None


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("resources.trian.cpu=2", "7: resources.trian: unknown key; did you mean 'train'?"),
        ("resources.train.cpus=2", "9: resources.train.cpus: unknown key; did you mean 'cpu'?"),
        ("resources.train.accelerator.type=t4", "found 't4' (str); did you mean 'T4'?"),
        ("resources.train.cpu=0", "9: resources.train.cpu: expected cores, as 2, 0.5 or 500m, found '0' (str)"),
        ("resources.train.memory=4", "9: resources.train.memory: expected a number and Ki, Mi, Gi"),
        ("kubeflow.ttl=7", "kubeflow.ttl: expected a number and s, m, h or d, as 90m, found '7' (str)"),
        ("resources.train.shared_memory=2Gi", "resources.train: shared_memory 2Gi counts as memory, of which there is"),
        ("resources.default.accelerator={type: T4}", "resources.default.accelerator: every step would get it"),
        ("resources.gate.machine_type=n1-standard-8", "resources.gate.machine_type: belongs to an accelerator"),
        ("resources.register.spot=true", "resources.register.spot: register acts on the world outside"),
        ("resources.train.image=components", "resources.train.image: trainer torch needs image trainer"),
        ("kubeflow.security_context={run_as_user: 0}", "kubeflow.security_context.run_as_user: expected greater than"),
        ("kubeflow.security_context={run_as_non_root: false}", "kubeflow.security_context.run_as_non_root: expected"),
        ("vertex.variables={a-b: c}", "vertex.variables.a-b: expected text matching"),
        ("vertex.pipeline_root=s3://bucket", "vertex.pipeline_root: expected text matching"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(spec_file: Path, setting: str, said: str) -> None:
    settings = [setting]
    if "shared_memory" in setting:
        settings.append("resources.train.memory=2Gi")
    assert said in refused(spec_file, *settings)


def test_spot_without_retries_is_refused(spec_file: Path) -> None:
    assert "kubeflow.retries, which is 0" in refused(spec_file, "resources.train.spot=true", "kubeflow.retries=0")


def test_a_secret_names_steps_that_there_are(spec_file: Path) -> None:
    secret = "{variable: TOKEN, secret: s, key: k, stages: [%s]}"
    spec = load_spec(spec_file, [f"kubeflow.secrets=[{secret % 'ingest, register'}]"])
    assert spec.kubeflow.secrets[0].stages == ["ingest", "register"]
    assert "did you mean 'ingest'?" in refused(spec_file, f"kubeflow.secrets=[{secret % 'injest'}]")
    assert "kubeflow.secrets.0.stages.0" in refused(spec_file, f"kubeflow.secrets=[{secret % 'default'}]")


def test_quantities_are_what_kubernetes_takes_them_for() -> None:
    from kubernetes.utils import parse_quantity

    for memory in ("4Gi", "512Mi", "10G", "3K", "1T", "2Ki", "7M", "1Ti"):
        assert memory_bytes(memory) == int(parse_quantity(memory))
    for cpu in ("2", "500m", "0.5", ".25", "1.0"):
        assert cpu_cores(cpu) == float(parse_quantity(cpu))
    assert [duration_seconds(text) for text in ("30s", "90m", "2h", "7d")] == [30, 5400, 7200, 604800]
