"""Stages as plain commands of an image, chained by their paths, as Airflow, Argo or a shell would."""

import json
import os
from pathlib import Path

import engine
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("images")]


def step(images: dict[str, str], folder: Path, *arguments: str, code: int = 0) -> str:
    user = f"{os.getuid()}:{os.getgid()}"
    safe = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none", "--user", user)
    mount = ("--volume", f"{folder}:/work", "--workdir", "/work")
    done = engine.docker("run", "--rm", *safe, *mount, images["components"], "shipway", "step", *arguments, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_three_stages_are_chained_by_their_paths(images: dict[str, str], tmp_path: Path) -> None:
    spec = ("--spec", "/opt/project/shipway.yaml")
    step(images, tmp_path, "ingest", *spec, "--out", "ingest")
    said = step(images, tmp_path, "validate", *spec, "--dataset", "ingest/dataset", "--out", "validate")
    assert said.splitlines()[-1] == "accepted"
    step(images, tmp_path, "split", *spec, "--dataset", "ingest/dataset", "--out", "split")
    record = json.loads((tmp_path / "split" / "step.json").read_text())
    assert record["facts"]["rows"] == {"train": 217, "validation": 62, "test": 65}
    # What a run in this machine's processes makes of the same rows.
    assert json.loads((tmp_path / "ingest" / "step.json").read_text())["facts"]["data_version"].startswith(
        "sha256:4fae9aa910cf"
    )


def test_a_mistake_is_one_line(images: dict[str, str], tmp_path: Path) -> None:
    spec = ("--spec", "/opt/project/shipway.yaml")
    said = step(images, tmp_path, "validate", *spec, "--dataset", "nowhere", "--out", "x", code=2)
    assert len(said.splitlines()) == 1
    assert "nowhere" in said


def test_help_lists_the_stages(images: dict[str, str], tmp_path: Path) -> None:
    said = step(images, tmp_path, "--help")
    for stage in ("ingest", "validate", "split", "featurize", "train", "evaluate", "gate", "register", "smoke"):
        assert stage in said


def test_a_registry_that_would_be_lost_with_the_container_is_refused(images: dict[str, str], tmp_path: Path) -> None:
    said = step(images, tmp_path, "champion", "--name", "penguins", "--out", "champion")
    assert said.strip().splitlines()[-1:] in ([], [""])
    program = "from shipway.lineage.tracking import client; client()"
    done = engine.docker("run", "--rm", images["components"], "python", "-c", program, code=1)
    assert "no registry: MLFLOW_TRACKING_URI is not set" in done.stderr
