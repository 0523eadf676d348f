"""The images: what is in them, what is not, and that they run without root, a writable disk or a network."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import engine
import pytest

from shipway.component import IMAGES

pytestmark = pytest.mark.slow

# What a step of each image imports, and what must not be there.
ABSENT = {
    "components": ("torch", "google.cloud.aiplatform", "typer", "kubernetes", "matplotlib", "pytest"),
    "trainer": ("google.cloud.aiplatform", "typer", "kubernetes", "pandera", "matplotlib", "pytest"),
    "deployer": ("torch", "typer", "pandera", "uvloop", "matplotlib", "pytest"),
    "monitor": ("torch", "google.cloud.aiplatform", "kubernetes", "pandera", "matplotlib", "pytest"),
    "server": ("torch", "google.cloud.aiplatform", "kfp", "mlflow", "pandera", "pytest"),
    "trigger": ("torch", "onnxruntime", "evidently", "matplotlib", "pytest"),
}
PRESENT = {
    "components": ("kfp.dsl.executor_main", "mlflow", "onnxruntime", "pandera", "s3fs", "gcsfs", "shipway_pipelines"),
    "trainer": ("kfp.dsl.executor_main", "mlflow", "torch", "s3fs"),
    "deployer": (
        *("kfp.dsl.executor_main", "mlflow", "onnxruntime", "s3fs", "gcsfs"),
        *("kubernetes", "google.cloud.aiplatform", "google.cloud.monitoring_v3"),
    ),
    "monitor": ("kfp.dsl.executor_main", "mlflow", "onnxruntime", "evidently.presets", "apprise", "s3fs", "gcsfs"),
    "server": ("uvicorn", "onnxruntime", "skops", "s3fs", "gcsfs"),
    "trigger": (
        *("kfp", "google.cloud.aiplatform", "fastapi", "kubernetes", "apprise", "psycopg2", "s3fs", "gcsfs"),
        *("shipway.triggers.service", "shipway.triggers.actions"),
    ),
}
GIGABYTE = 1e9

CAN_IMPORT = """
import importlib, os, sys
os.environ["_KFP_RUNTIME"] = os.environ.get("RUNTIME", "false")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        print(name)
"""
UNCOMPILED = """
import importlib.util, pathlib, sys
for folder in ("/opt/venv/lib", "/opt/shipway", "/opt/packages"):
    for path in pathlib.Path(folder).rglob("*.py"):
        compiled = pathlib.Path(importlib.util.cache_from_source(str(path)))
        if not compiled.exists() and "site-packages" in str(path):
            print(path)
"""


@pytest.mark.parametrize("image", engine.IMAGES)
def test_it_has_what_its_steps_need_and_nothing_else(images: dict[str, str], image: str) -> None:
    runtime = ("--env", f"RUNTIME={'true' if image in IMAGES else 'false'}")
    missing = engine.python(images[image], CAN_IMPORT, *PRESENT[image], options=runtime)
    assert missing.split() == []
    missing = engine.python(images[image], CAN_IMPORT, *ABSENT[image], options=runtime)
    assert set(missing.split()) == set(ABSENT[image])


@pytest.mark.parametrize("image", engine.IMAGES)
def test_it_is_no_root_and_says_where_it_comes_from(images: dict[str, str], image: str) -> None:
    config = engine.inspect(images[image])["Config"]
    assert config["User"] == "65532:65532"
    assert engine.python(images[image], "import os; print(os.getuid())") == "65532\n"
    project = tomllib.loads((engine.ROOT / "pyproject.toml").read_text())["project"]
    sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=engine.ROOT, capture_output=True, text=True).stdout.strip()
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == sha
    assert labels["org.opencontainers.image.title"] == f"shipway/{image}"
    assert not any("SECRET" in entry or "TOKEN" in entry for entry in config["Env"])


@pytest.mark.parametrize("image", engine.IMAGES)
def test_its_python_is_compiled(images: dict[str, str], image: str) -> None:
    left = engine.python(images[image], UNCOMPILED).splitlines()
    # A few packages carry templates that are no Python of this version.
    assert len(left) < 30, left[:40]
    assert not any("/shipway/" in path for path in left)


def test_the_components_keep_their_budget(images: dict[str, str]) -> None:
    assert engine.inspect(images["components"])["Size"] < 1.2 * GIGABYTE


def test_the_users_project_is_in_it_with_its_packages(images: dict[str, str]) -> None:
    program = "import palmerpenguins, pathlib; print([path.name for path in pathlib.Path('/opt/project').iterdir()])"
    said = engine.python(images["components"], program)
    assert "shipway.yaml" in said
    assert "loader.py" in said


def test_nothing_can_be_written_but_tmp(images: dict[str, str]) -> None:
    program = "import pathlib; pathlib.Path('/tmp/x').touch(); pathlib.Path('/opt/project/x').touch()"
    done = engine.docker(
        *("run", "--rm", "--read-only", "--tmpfs", "/tmp", images["components"], "python", "-c", program), code=1
    )
    assert "Read-only file system: '/opt/project/x'" in done.stderr
    # Nor without that flag: the image's files are root's.
    done = engine.docker("run", "--rm", images["components"], "python", "-c", program, code=1)
    assert "Permission denied: '/opt/project/x'" in done.stderr


def test_a_change_of_code_rebuilds_the_last_layers_only(images: dict[str, str], tmp_path: Path) -> None:
    """The layer of the dependencies is the same in an image of other code."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(
        engine.ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv", ".tools", ".shipway", "runs", "build", "tests"),
    )
    (copy / "components" / "shipway" / "errors.py").open("a").write("\n# another byte\n")
    command = [sys.executable, "containers/images.py", "build", "--repository", f"{engine.REPOSITORY}-changed"]
    done = subprocess.run(
        [*command, "--project", engine.PROJECT, "components"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before = engine.inspect(images["components"])["RootFS"]["Layers"]
    after = engine.inspect(done.stdout.split()[0])["RootFS"]["Layers"]
    same = [one == other for one, other in zip(before, after, strict=True)]
    assert same[:2] == [True, True]
    assert not all(same)
    engine.docker("image", "rm", done.stdout.split()[0])


def test_a_project_outside_the_repository_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "containers/images.py", "build", "--project", str(tmp_path)]
    done = subprocess.run(command, cwd=engine.ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected a folder below" in done.stderr


def test_the_server_answers_and_its_health_check_says_so(images: dict[str, str], package: Path) -> None:
    name = "shipway-test-server"
    subprocess.run(["docker", "rm", "-f", name], capture_output=True)
    engine.docker(
        *("run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--network", "none", "--health-interval", "1s", "--volume", f"{package}:/model:ro"),
        *(images["server"], "--package", "/model", "--allow-unblessed"),
    )
    try:
        deadline = time.monotonic() + 60
        while (state := _health(name)) != "healthy":
            assert time.monotonic() < deadline, (state, engine.docker("logs", name).stderr)
            time.sleep(0.5)
        ask = (
            "import json, sys, urllib.request as u; import polars as pl;"
            "rows = pl.read_parquet('/model/golden.parquet').head(2).to_dicts();"
            "body = json.dumps({'instances': rows}).encode(); url = 'http://127.0.0.1:8080/v1/models/penguins:predict';"
            "r = u.Request(url, body, {'content-type': 'application/json'});"
            "print(u.urlopen(r).read().decode())"
        )
        answer = json.loads(engine.docker("exec", name, "python", "-c", ask).stdout)
        assert len(answer["predictions"]) == 2
    finally:
        engine.docker("rm", "-f", name)


def _health(name: str) -> str:
    return engine.docker("inspect", "--format", "{{.State.Health.Status}}", name).stdout.strip()


def test_the_trigger_service_starts_and_its_health_check_says_so(images: dict[str, str], tmp_path: Path) -> None:
    """With the image's own command, and the routes where that looks for them."""
    folder = engine.readable(tmp_path / "shipway")
    routes = engine.ROOT / "manifests" / "components" / "trigger" / "routes.yaml"
    (folder / "routes.yaml").write_text(routes.read_text())
    secrets = engine.readable(tmp_path / "secrets")
    for name in ("SHIPWAY_EVENTS_TOKEN", "ALERTMANAGER_TOKEN", "SHIPWAY_READ_TOKEN"):
        (secrets / name).write_text(f"{name}-of-a-test")
    name = "shipway-test-trigger"
    subprocess.run(["docker", "rm", "-f", name], capture_output=True)
    engine.docker(
        *("run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--network", "none", "--health-interval", "1s", "--volume", f"{folder}:/etc/shipway:ro"),
        *("--volume", f"{secrets}:/run/secrets/shipway-trigger:ro", images["trigger"]),
    )
    try:
        deadline = time.monotonic() + 60
        while (state := _health(name)) != "healthy":
            assert time.monotonic() < deadline, (state, engine.docker("logs", name).stderr)
            time.sleep(0.5)
        ask = (
            "import urllib.request as u;"
            'body = b\'{"alerts": [{"labels": {"a": "b"}, "status": "firing", "startsAt": "2026"}]}\';'
            "headers = {'content-type': 'application/json', 'authorization': 'Bearer ALERTMANAGER_TOKEN-of-a-test'};"
            "print(u.urlopen(u.Request('http://127.0.0.1:8090/hooks/alertmanager', body, headers)).status)"
        )
        assert engine.docker("exec", name, "python", "-c", ask).stdout == "202\n"
    finally:
        engine.docker("rm", "-f", name)
