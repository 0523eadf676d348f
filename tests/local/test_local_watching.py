"""A keyed training, a batch and a check through the real command: killed, asked for twice, set aside, refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

EXAMPLE = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
SHIPWAY = str(Path(sys.executable).parent / "shipway")

pytestmark = pytest.mark.slow


class Project:
    """A copy of the penguins in a folder of its own, with its own state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(EXAMPLE, folder / "penguins")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [SHIPWAY, "run", "penguins/shipway.yaml", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHIPWAY_")}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str, code: int = 0) -> dict:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        assert "Traceback" not in said
        return {**json.loads((self.folder / "runs" / "latest" / "summary.json").read_text()), "said": said}

    def versions(self) -> list[str]:
        done = subprocess.run([SHIPWAY, "models", "list"], cwd=self.folder, capture_output=True, text=True, check=True)
        return [line.split()[1] for line in done.stdout.splitlines() if line.split()[:1] == ["penguins"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A model that a keyed run has shipped: the first process was killed, and two more came to end it."""
    project = Project(tmp_path_factory.mktemp("watching"))
    steps = project.folder / "runs" / "penguins-training-t1" / "steps.json"
    first = project.start("--key", "t1")
    try:
        wait_for(lambda: steps.is_file() and "admit" in steps.read_text())
        first.send_signal(signal.SIGKILL)
        first.communicate()
        others = [project.start("--key", "t1") for _ in range(2)]
        said = [process.communicate(timeout=300)[0] for process in others]
        assert [process.returncode for process in others] == [0, 0], said
        # One ran it, the other waited and tells how it ended; what the killed one had done was not done again.
        assert sorted("found: it has ended" in text for text in said) == [False, True]
        assert sum("✓ ingest" in text and "cached" in text for text in said) == 1
        assert all("shipped in" in text for text in said)
        yield project
    finally:
        first.kill()
        subprocess.run([SHIPWAY, "down"], cwd=project.folder, capture_output=True, check=True)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def test_a_key_is_one_run_whoever_is_killed(trained: Project) -> None:
    runs = [path.name for path in (trained.folder / "runs").iterdir() if path.is_dir() and not path.is_symlink()]
    assert runs.count("penguins-training-t1") == 1
    assert not [name for name in runs if name.startswith("penguins-training-") and name != "penguins-training-t1"]
    assert trained.versions() == ["1"]
    # Even a spec that is broken by now does not hinder who asks what became of it.
    again = trained.start("--key", "t1", "--data", "nowhere.csv")
    said, _ = again.communicate(timeout=60)
    assert (again.returncode, "found: it has ended" in said) == (0, True), said


@pytest.fixture(scope="module")
def scored(trained: Project) -> dict:
    rows = pl.read_csv(penguins(), null_values=["NA"]).with_columns(pl.all().cast(pl.String))
    far = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("Mars")).otherwise("island").alias("island")
    rows.drop("species").with_columns(far).write_csv(trained.folder / "batch.csv", null_value="NA")
    settings = ["inference={partitions: 2, max_quarantine: 0.01, output: out, columns: [island], slices: [island]}"]
    given = ["--data", "batch.csv", "--parameter", "version=1"]
    return trained.run("--pipeline", "inference", *given, *[f"--set={setting}" for setting in settings])


def penguins() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("palmerpenguins")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "penguins.csv"


def test_a_batch_is_scored_and_the_bad_row_set_aside(trained: Project, scored: dict) -> None:
    assert (scored["outcome"], scored["exit_code"], scored["pipeline"]) == ("scored", 0, "inference")
    assert (scored["model"]["version"], scored["model"]["name"]) == ("1", "penguins")
    steps = {step["name"]: step["status"] for step in scored["steps"]}
    assert list(steps) == ["resolve", "ingest", "screen", "predict", "gather"]
    assert set(steps.values()) == {"succeeded"}
    assert {"Validation", "Batch inference"} <= set(scored["reports"])
    assert scored["facts"]["screen"]["quarantined"] == 1
    # Two steps side by side, counted together.
    assert scored["facts"]["predict"]["predicted"] == 343
    (batch,) = (trained.folder / "penguins" / "out").glob("*/batch.json")
    found = pl.read_parquet(batch.parent / "part-*.parquet")
    assert found.height == 343
    assert "Mars" not in found["island"]
    run = (trained.folder / "runs" / "latest").resolve().name
    assert set(found["run_id"]) == {run}


def test_too_many_bad_rows_end_the_run(trained: Project, scored: dict) -> None:
    assert scored["exit_code"] == 0
    given = ["--data", "batch.csv", "--parameter", "version=1"]
    refused = trained.run("--pipeline", "inference", *given, code=3)
    assert (refused["outcome"], refused["failed_step"]) == ("rejected", "screen")
    assert "Mars" in "".join(refused["reason"]) or "1 row" in "".join(refused["reason"])
    assert {step["status"] for step in refused["steps"] if step["name"] in ("predict", "gather")} == {"skipped"}
    assert "Validation" in refused["reports"]


def test_a_check_of_the_batch_decides_and_is_told(trained: Project, scored: dict) -> None:
    assert scored["exit_code"] == 0
    settings = ["monitor={least_rows: 100, evidently: false, predictions: out}"]
    checked = trained.run(
        *("--pipeline", "monitoring", "--parameter", "version=1"), *[f"--set={setting}" for setting in settings]
    )
    assert (checked["outcome"], checked["exit_code"], checked["model"]["version"]) == ("checked", 0, "1")
    assert checked["decision"] in ("ok", "alert")
    assert "decision " in checked["said"]
    assert checked["facts"]["monitor"]["rows"] == 343
    (told,) = [
        json.loads(line)
        for line in (trained.folder / ".shipway" / "alerts.jsonl").read_text().splitlines()
        if '"key": "monitor/' in line
    ]
    assert told["facts"]["decision"] == checked["decision"]
