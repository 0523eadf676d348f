"""Whole runs of the penguins through the real command: shipped, cached, rejected, broken, killed, resumed."""

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

EXAMPLE = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
SHIPWAY = str(Path(sys.executable).parent / "shipway")
PURE = ("ingest", "validate", "split", "featurize", "train", "evaluate", "gate")
TORCH = "train={trainer: torch, epochs: 200, batch_size: 16, patience: 200, hidden: [16]}"

pytestmark = pytest.mark.slow


@dataclass
class Project:
    """A copy of the penguins in a folder of its own, with its own state."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "penguins" / "shipway.yaml"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([SHIPWAY, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SHIPWAY, "run", str(self.spec), *arguments], cwd=self.folder, stdout=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, code: int = 0) -> dict:
        done = self.command("run", str(self.spec), *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return {**self.summary(), "printed": done.stdout}

    def summary(self) -> dict:
        return json.loads((self.folder / "runs" / "latest" / "summary.json").read_text())

    def versions(self) -> list[str]:
        lines = self.command("models", "list").stdout.splitlines()
        return [line.split()[1] for line in lines if line.split()[:1] == ["penguins"]]


@pytest.fixture
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Project]]:
    made: list[Project] = []

    def make() -> Project:
        folder = tmp_path_factory.mktemp("project")
        shutil.copytree(EXAMPLE, folder / "penguins")
        made.append(Project(folder))
        return made[-1]

    yield make
    for project in made:
        project.command("down")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, dict]]:
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(EXAMPLE, folder / "penguins")
    project = Project(folder)
    yield project, project.run()
    project.command("down")


def steps(summary: dict) -> dict[str, dict]:
    return {step["name"]: step for step in summary["steps"]}


def ask(summary: dict) -> tuple[dict, dict[str, str]]:
    """Sends the printed example request, read as a shell would read it."""
    words = shlex.split(summary["example"])
    url = next(word for word in words if word.startswith("http://"))
    header, body = (words[words.index(flag) + 1] for flag in ("-H", "-d"))
    request = urllib.request.Request(url, body.encode(), dict([header.split(": ")]))
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer), {name.lower(): value for name, value in answer.headers.items()}


def serving(summary: dict) -> str:
    """Returns the version that the endpoint serves now."""
    with urllib.request.urlopen(summary["endpoint"] + "/v2/models/penguins", timeout=10) as answer:
        return answer.headers["x-model-version"]


def test_a_run_ships_a_model_that_answers(shipped: tuple[Project, dict]) -> None:
    project, summary = shipped
    assert (summary["outcome"], summary["exit_code"], summary["decision"]) == ("shipped", 0, "blessed")
    # Nobody has to be told of a model that the gates let pass.
    assert {step["name"] for step in summary["steps"] if step["status"] == "skipped"} == {"notify"}
    assert {step["status"] for step in summary["steps"] if step["name"] != "notify"} == {"succeeded"}
    assert not any(step["cached"] for step in summary["steps"])
    assert summary["gates"]
    assert all(rule["passed"] for rule in summary["gates"])
    assert summary["model"]["version"] == "1"
    assert summary["model"]["digest"].startswith("sha256:")
    assert summary["data_version"].startswith("sha256:")
    assert summary["metrics"]["accuracy"] > 0.9
    body, headers = ask(summary)
    assert headers["x-model-version"] == "1"
    assert headers["x-model-digest"] == summary["model"]["digest"]
    assert 0 < body["predictions"][0]["probability"] <= 1
    run = project.folder / "runs" / "latest"
    for path in ["index.html", *summary["reports"].values()]:
        assert "<html" in (run / path).read_text()
    assert {"Validation", "Evaluation", "Gates", "Smoke test"} <= set(summary["reports"])


def test_the_second_run_is_cached_and_registers_nothing_new(shipped: tuple[Project, dict]) -> None:
    project, first = shipped
    second = project.run()
    assert {name for name, step in steps(second).items() if step["cached"]} == set(PURE)
    assert (second["model"]["version"], second["model"]["new_version"]) == ("1", False)
    assert second["model"]["digest"] == first["model"]["digest"]
    assert second["endpoint"] == first["endpoint"]
    assert second["metrics"] == first["metrics"]
    assert second["reports"].keys() == first["reports"].keys()
    assert project.versions() == ["1"]


def test_on_a_terminal_the_running_step_moves_and_the_end_is_clean(shipped: tuple[Project, dict]) -> None:
    project, _ = shipped
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [SHIPWAY, "run", str(project.spec)], cwd=project.folder, stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # Linux answers so when the other side is closed.
        while chunk := os.read(leader, 65536):
            shown += chunk
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.wait(60) == 0
    assert re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] champion", text)
    end = text[text.index("shipped in") :]
    assert not re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", end)
    assert "Traceback" not in end


def test_an_unreachable_gate_ships_nothing(shipped: tuple[Project, dict]) -> None:
    project, first = shipped
    summary = project.run("--set", "gates=[{metric: accuracy, min: 1.5}]", code=3)
    assert (summary["outcome"], summary["decision"], summary["failed_step"]) == ("rejected", "rejected", "gate")
    assert [rule["passed"] for rule in summary["gates"]] == [False]
    assert "accuracy >= 1.5" in summary["reason"][0]
    assert "accuracy >= 1.5" in summary["printed"]
    assert {steps(summary)[name]["status"] for name in ("register", "deploy", "smoke")} == {"skipped"}
    assert steps(summary)["train"]["cached"]
    assert project.versions() == ["1"]
    assert serving(first) == "1"
    no_gates = project.run("--set", "gates=[]", code=3)
    assert no_gates["decision"] == "rejected"


def test_a_bad_batch_is_refused_with_every_breach(shipped: tuple[Project, dict]) -> None:
    project, first = shipped
    broken = (
        penguins()
        .head(20)
        .with_columns(
            pl.when(pl.int_range(pl.len()) < 3)
            .then(pl.lit("heavy"))
            .otherwise(pl.col("body_mass_g").cast(pl.String))
            .alias("body_mass_g"),
            pl.when(pl.int_range(pl.len()) < 2).then(None).otherwise(pl.col("species")).alias("species"),
            pl.lit(1).alias("surprise"),
        )
    )
    path = project.folder / "broken.csv"
    broken.write_csv(path)
    summary = project.run("--data", str(path), "--set", "schema.rows.min=100", code=3)
    text = "\n".join(summary["reason"])
    for word in ("body_mass_g", "heavy", "species", "surprise", "100"):
        assert word in text, text
    assert steps(summary)["validate"]["status"] == "rejected"
    assert steps(summary)["train"]["status"] == "skipped"
    assert "Validation" in summary["reports"]
    assert project.versions() == ["1"]
    assert serving(first) == "1"


def penguins() -> pl.DataFrame:
    import importlib.util

    spec = importlib.util.find_spec("palmerpenguins")
    assert spec is not None
    assert spec.origin is not None
    return pl.read_csv(Path(spec.origin).parent / "data" / "penguins.csv", null_values=["NA", ""])


def test_the_same_model_comes_of_another_directory_and_of_csv_and_parquet(
    shipped: tuple[Project, dict], new_project: Callable[[], Project]
) -> None:
    _, first = shipped
    project = new_project()
    rows = penguins()
    rows.write_csv(project.folder / "rows.csv")
    (project.folder / "parts").mkdir()
    rows[200:].write_parquet(project.folder / "parts" / "a.parquet")
    rows[:200].write_parquet(project.folder / "parts" / "b.parquet")
    from_csv = project.run("--data", "rows.csv")
    from_parquet = project.run("--data", "parts/*.parquet")
    for summary in (from_csv, from_parquet):
        assert summary["data_version"] == first["data_version"]
        assert summary["model"]["digest"] == first["model"]["digest"]
    assert project.versions() == ["1"]


def test_a_bug_in_the_users_code_is_named_and_only_the_rest_runs_again(new_project: Callable[[], Project]) -> None:
    project = new_project()
    features = project.folder / "penguins" / "features.py"
    good = features.read_text()
    features.write_text(good.replace("def transformer", "def broken") + "\n\ndef transformer():\n    return 1 / 0\n")
    summary = project.run(code=1)
    assert summary["failed_step"] == "featurize"
    assert "ZeroDivisionError" in summary["reason"][0]
    assert "features.py:" in summary["reason"][0]
    features.write_text(good)
    fixed = project.run()
    cached = {name for name, step in steps(fixed).items() if step["cached"]}
    assert cached == {"ingest", "validate", "split"}


def test_a_killed_run_resumes_to_the_same_model(new_project: Callable[[], Project]) -> None:
    whole, killed = new_project(), new_project()
    gates = "gates=[{metric: accuracy, min: 0.1}]"
    expected = whole.run("--set", TORCH, "--set", gates)
    process = killed.start("--set", TORCH, "--set", gates)
    wait_for(lambda: any((killed.folder / ".shipway" / "checkpoints").glob("*/epoch-*.json")))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    wait_for(lambda: not processes_in(killed.folder))
    assert not (killed.folder / "runs" / "latest").exists()
    summary = killed.run("--set", TORCH, "--set", gates)
    assert steps(summary)["featurize"]["cached"]
    assert not steps(summary)["train"]["cached"]
    assert summary["facts"]["train"]["resumed_from_epoch"] > 0
    assert summary["model"]["digest"] == expected["model"]["digest"]


def test_a_second_run_waits_for_the_first(new_project: Callable[[], Project]) -> None:
    project = new_project()
    first, second = project.start(), project.start()
    printed = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert sum("waiting for the run of process" in text for text in printed) == 1
    assert project.versions() == ["1"]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[int]:
    """Returns the processes whose environment names the folder as their run's state (servers have another life)."""
    wanted = f"SHIPWAY_RUN_FOLDER={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if any(line.startswith(wanted) for line in environment.split(b"\0")):
                found.append(int(entry.name))
    return found
