"""`shipway compile`, as `make compile` calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples"
SPECS = sorted(EXAMPLES.glob("*/shipway.yaml"))


def compile_(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHIPWAY_")}
    command = [sys.executable, "-m", "shipway.cli.main", "compile", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.parent.name)
def test_each_example_has_a_file_of_its_own(spec: Path, tmp_path: Path) -> None:
    done = compile_(tmp_path, str(spec))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "build/pipelines" / spec.parent.name
    (document,) = yaml.safe_load_all((folder / "training.yaml").read_text())
    assert document["pipelineInfo"]["name"] == f"{spec.parent.name}-training"
    for name in ("promotion", "rollback"):
        done = compile_(tmp_path, str(spec), "--pipeline", name)
        assert (done.returncode, done.stdout) == (0, f"wrote build/pipelines/{spec.parent.name}/{name}.yaml\n")
        (document,) = yaml.safe_load_all((folder / f"{name}.yaml").read_text())
        assert document["pipelineInfo"]["name"] == f"{spec.parent.name}-{name}"


def test_the_target_decides_the_names(tmp_path: Path) -> None:
    accelerator = "resources.train.accelerator={type: L4}"
    for target, name in (("kubeflow", "nvidia.com/gpu"), ("vertex", "NVIDIA_L4")):
        path = tmp_path / f"{target}.yaml"
        done = compile_(tmp_path, str(SPECS[-1]), "--target", target, "--output", str(path), "--set", accelerator)
        assert done.returncode == 0, done.stderr
        assert name in path.read_text()


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    done = compile_(tmp_path, str(SPECS[-1]), "--target", "airflow")
    assert done.returncode == 2
    assert done.stderr == "shipway: --target: expected kubeflow or vertex, found 'airflow'\n"


def test_what_vertex_cannot_do_is_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "vertex.yaml"
    settings = ["--set", "resources.train.shared_memory=8Gi", "--set", "kubeflow.ttl=7d"]
    done = compile_(tmp_path, str(SPECS[-1]), "--target", "vertex", "--output", str(path), *settings)
    assert done.returncode == 0, done.stderr
    for setting in ("resources.train.shared_memory", "kubeflow.ttl"):
        assert f"note: {setting}: dropped on Vertex AI" in done.stderr
    assert len(list(yaml.safe_load_all(path.read_text()))) == 1
