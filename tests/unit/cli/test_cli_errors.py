"""What a user sees when the input is wrong: one clear line each, with the path, and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

SHIPWAY = str(Path(sys.executable).parent / "shipway")
SCHEMA = """\
schema_type: dataframe
columns:
  x: {dtype: float64, nullable: true}
  y: {dtype: int64, nullable: false}
"""
SPEC = """\
name: tiny
task: binary
data: {uri: rows.csv, label: y}
schema: {pandera: schema.yaml}
split: {by: hash, columns: [x]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    (tmp_path / "shipway.yaml").write_text(SPEC)
    (tmp_path / "rows.csv").write_text("x,y\n1.5,0\n2.5,1\n")
    return tmp_path


def shipway(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHIPWAY")}
    return subprocess.run(
        [SHIPWAY, *arguments], cwd=project, capture_output=True, text=True, timeout=120, env=environment
    )


def refused(project: Path, *arguments: str) -> str:
    done = shipway(project, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "runs").exists() or not list((project / "runs").iterdir())
    return done.stderr


def test_a_good_spec_checks(project: Path) -> None:
    done = shipway(project, "spec", "check", "shipway.yaml")
    assert done.returncode == 0
    assert "shipway.yaml: ok (tiny, binary, trainer sklearn, 0 gates)" in done.stdout


@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        (("label: y", "label: y, lable: z"), (), "shipway.yaml:3: data.lable: unknown key; did you mean 'label'?"),
        (("", ""), ("--set", "split.seed=x"), "split.seed: expected a valid integer, found 'x' (str)"),
        (("label: y", "label: yy"), (), "data.label: the schema schema.yaml has no column 'yy'; did you mean 'y'?"),
        (("schema.yaml", "absent.yaml"), (), "absent.yaml"),
        (("uri: rows.csv", "uri: absent.csv"), (), "absent.csv"),
        (("uri: rows.csv", "loader: absent.py:load"), (), "data.loader: no file"),
        (("", ""), ("--data", "nowhere/*.csv"), "nowhere/*.csv"),
        (("", ""), ("--runs", "rows.csv"), "rows.csv: cannot write there"),
        (("", ""), ("--state", "rows.csv/state"), "rows.csv/state: cannot write there"),
        (("", ""), ("--key", "Not OK"), "--key: expected at most 40 lower-case letters, digits and dashes"),
        (("", ""), ("--pipeline", "monitoring", "--data", "rows.csv"), "--data: pipeline monitoring reads no rows"),
        (
            ("", ""),
            ("--pipeline", "inference", "--set", "inference.schedule=0 25 * * *"),
            "inference.schedule: cron '0 25 * * *': hour: found '25'",
        ),
        (("", ""), ("--runner", "podman"), "--runner: expected subprocess or docker, found 'podman'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    project: Path, change: tuple[str, str], arguments: tuple[str, ...], expected: str
) -> None:
    (project / "shipway.yaml").write_text(SPEC.replace(*change) if change[0] else SPEC)
    message = refused(project, "run", "shipway.yaml", *arguments)
    assert expected in message
    assert len(message.strip().splitlines()) == 1


def test_a_missing_spec_is_refused(project: Path) -> None:
    assert "nothing.yaml: no such spec file" in refused(project, "run", "nothing.yaml")


def test_an_unwritable_compile_target_is_refused(project: Path) -> None:
    message = refused(project, "compile", "shipway.yaml", "--output", "rows.csv/training.yaml")
    assert "rows.csv/training.yaml: cannot write the compiled pipeline" in message


def test_compile_writes_where_it_was_told(project: Path) -> None:
    assert shipway(project, "compile", "shipway.yaml").returncode == 0
    name = yaml.safe_load((project / "shipway.yaml").read_text())["name"]
    assert (project / "build" / "pipelines" / name / "training.yaml").is_file()
    assert shipway(project, "compile", "shipway.yaml", "--output", "here.yaml").returncode == 0
    assert (project / "here.yaml").is_file()


def test_the_schema_for_editors_is_json(project: Path) -> None:
    assert json.loads(shipway(project, "spec", "schema").stdout)["title"] == "Shipway model spec"


def test_an_empty_registry_and_nothing_to_stop(project: Path) -> None:
    assert "no model is registered yet" in shipway(project, "models", "list").stdout
    assert "nothing was running" in shipway(project, "down").stdout
    assert "no-such" in refused(project, "lineage", "no-such")
