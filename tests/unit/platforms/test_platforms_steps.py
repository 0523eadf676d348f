"""`shipway step` in real processes, where kfp's compile-time dependencies and the extra `cli` cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shipway import components
from shipway.errors import InputError
from shipway.platforms.steps import run_stage, stages

PENGUINS = Path(__file__).parents[3] / "pipelines/examples/penguins/shipway.yaml"

# What an image lacks: it has kfp without its dependencies.
IMAGE = """
import importlib.abc, sys

LACKING = ("typer", "rich", "docker", "kubernetes", "kfp_server_api", "docstring_parser", "kfp.compiler", "kfp.client",
           "kfp.components", "kfp.local", "kfp.pipeline_spec", "kfp.kubernetes", "tabulate", "requests_toolbelt")

class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == lacking or name.startswith(lacking + ".") for lacking in LACKING):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Lacking())
sys.argv[0] = "shipway"
from shipway.cli.__main__ import main
main()
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shipway(tmp_path: Path) -> Run:
    """Runs the command in an image's Python, from a folder of the test's own."""
    foreign = ("SHIPWAY", "MLFLOW", "_KFP")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    environment["SHIPWAY_STATE"] = str(tmp_path / "state")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", IMAGE, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The penguins as ingest leaves them."""
    folder = tmp_path_factory.mktemp("ingest")
    command = [sys.executable, "-m", "shipway.cli", "step", "ingest", "--spec", str(PENGUINS), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the one line that a refused command prints."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("shipway: ")
    return line


def status(folder: Path) -> str:
    found: str = json.loads((folder / "step.json").read_text())["status"]
    return found


def test_every_component_is_a_stage_with_every_input_explained() -> None:
    found = stages()
    assert sorted(found) == sorted(components.__all__)
    for stage in found.values():
        assert stage.summary, stage.name
        assert all(option.help for option in stage.options), stage.name
        assert all(stage.output_help.values()), stage.name
    train = found["train"]
    assert [option.flag for option in train.options if option.kind == "parameter"] == ["--train"]
    assert list(train.outputs) == ["model", "metrics"]
    assert train.results == ()
    assert [option.default for option in found["ingest"].options if not option.required] == ["", ""]


def test_help_of_every_stage(shipway: Run) -> None:
    listed = shipway("step", "--help")
    assert listed.returncode == 0
    for name, stage in stages().items():
        assert f"  {name} " in listed.stdout
        assert stage.summary in listed.stdout
    shown = shipway("step", "validate", "--help").stdout
    for part in ("--dataset PATH", "The rows.", "--data-schema", "The spec's schema section", "--out DIR", "findings"):
        assert part in shown
    assert shipway("step").returncode == 2


def test_other_commands_name_what_is_missing(shipway: Run) -> None:
    line = refusal(shipway("version"))
    assert "'typer'" in line
    assert "extra `cli`" in line


@pytest.mark.slow
def test_chain_of_stages_from_rows_to_a_registered_model(shipway: Run, tmp_path: Path) -> None:
    spec = ("--spec", PENGUINS)
    version = last_line(shipway("step", "ingest", *spec, "--out", "ingest"))
    assert version.startswith("sha256:")
    assert (tmp_path / "ingest/Output").read_text() == version
    dataset = "ingest/dataset"
    assert last_line(shipway("step", "validate", *spec, "--dataset", dataset, "--out", "validate")) == "accepted"
    verdict = ("--findings", "validate/findings", "--verdict", "@validate/Output")
    assert shipway("step", "admit", *verdict, "--out", "admit").returncode == 0
    assert shipway("step", "split", *spec, "--dataset", dataset, "--out", "split").returncode == 0
    raw = ("--train", "split/train", "--validation", "split/validation")
    assert shipway("step", "featurize", *spec, *raw, "--out", "featurize").returncode == 0
    inputs = [f"--{name.replace('_', '-')}=featurize/{name}" for name in stages()["featurize"].outputs]
    assert shipway("step", "train", *spec, *inputs, raw[2], raw[3], "--out", "train").returncode == 0
    model = ("--model", "train/model")
    assert shipway("step", "evaluate", *spec, *model, "--test", "split/test", "--out", "evaluate").returncode == 0
    judged = ("--evaluation", "evaluate/evaluation")
    gate = shipway("step", "gate", *spec, *model, *judged, "--out", "gate", "--result", "xcom/return.json")
    assert last_line(gate) == "blessed"
    assert json.loads((tmp_path / "xcom/return.json").read_text()) == {"Output": "blessed"}
    lineage = ("--blessing", "gate/blessing", "--data-version", "@ingest/Output")
    assert last_line(shipway("step", "register", *spec, *model, *judged, *lineage, "--out", "register")) == "1"

    assert last_line(shipway("step", "candidate", *spec, "--version", "1", "--out", "candidate")) == "1"
    assert (tmp_path / "candidate/stable").read_text() == ""
    release = ("--release", "candidate/release")
    assert last_line(shipway("step", "approval", *spec, *release, "--out", "approval")) == ""
    asked = ("--set", "rollout={approval: required, approvers: [nobody-here]}")
    assert shipway("step", "approval", *spec, *asked, *release, "--out", "refused").returncode == 3

    names = ("ingest", "validate", "admit", "split", "featurize", "train", "evaluate", "gate", "register")
    names += ("candidate", "approval")
    assert {status(tmp_path / name) for name in names} == {"succeeded"}
    # The metadata that train gave its model reached register.
    kept = json.loads((tmp_path / "train/model.artifact.json").read_text())
    champion = shipway("step", "champion", "--name", "penguins", "--out", "champion")
    assert last_line(champion) == ""
    import mlflow

    registry = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'state/mlflow.db'}")
    assert registry.get_model_version("penguins", "1").run_id == kept["metadata"]["mlflow_run_id"]


def test_rejected_data_are_a_result_and_admit_refuses_them(shipway: Run, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(
        "schema_type: dataframe\ncolumns:\n  no_such_column: {dtype: float64, nullable: true}\n"
    )
    schema = ("--data-schema", '{"pandera": "schema.yaml"}')
    validate = shipway("step", "validate", "--dataset", rows / "dataset", *schema, "--out", "validate")
    assert last_line(validate) == "rejected"
    assert status(tmp_path / "validate") == "rejected"
    verdict = ("--findings", "validate/findings", "--verdict", "@validate/Output")
    admit = shipway("step", "admit", *verdict, "--out", "admit")
    assert admit.returncode == 3
    assert "no_such_column" in admit.stderr
    assert status(tmp_path / "admit") == "failed"


def test_failure_leaves_nothing_of_an_earlier_success(shipway: Run, rows: Path, tmp_path: Path) -> None:
    split = ("step", "split", "--dataset", rows / "dataset", "--out", "split")
    assert shipway(*split, "--spec", PENGUINS).returncode == 0
    failed = shipway(*split, "--spec", PENGUINS, "--split", '{"by": "hash", "columns": ["nothing"]}')
    assert failed.returncode == 2
    assert "nothing" in failed.stderr
    assert status(tmp_path / "split") == "failed"
    assert not (tmp_path / "split/train.artifact.json").exists()


@pytest.mark.parametrize("given", ["plain", "yaml file", "dumped"])
def test_section_in_each_form(shipway: Run, rows: Path, tmp_path: Path, given: str) -> None:
    section = {"by": "hash", "columns": ["body_mass_g", "bill_length_mm"]}
    text = {
        "plain": json.dumps(section),
        "yaml file": "@split.yaml",
        "dumped": json.dumps({"section": section, "code": ""}),
    }
    (tmp_path / "split.yaml").write_text("by: hash\ncolumns: [body_mass_g, bill_length_mm]\n")
    done = shipway(
        "step", "split", "--dataset", rows / "dataset", "--spec", PENGUINS, "--split", text[given], "--out", "split"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "split/train.artifact.json").read_text())["metadata"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["validat"], r"step validat: no such stage; did you mean 'validate'?"),
        (["x"], "there are admit, approval, candidate, champion"),
        (["validate", "--dataset", "ROWS"], "required: --out"),
        (["validate", "--dataset", "ROWS", "--out", "o"], "--data-schema missing (or --spec FILE)"),
        (["admit", "--findings", "ROWS", "--out", "o"], "--verdict missing; see"),
        (["validate", "--dataset", "ROWS", "--out", "o", "--data-shema", "{}"], "did you mean --data-schema?"),
        (
            ["validate", "--dataset", "nowhere", "--out", "o", "--spec", "SPEC"],
            "--dataset nowhere: no such file or folder",
        ),
        (["validate", "--dataset", "ROWS", "--out", "o", "--data-schema", '{"a": '], "neither JSON nor YAML"),
        (["validate", "--dataset", "ROWS", "--out", "o", "--data-schema", "schema.yaml"], "a file is named with @"),
        (
            ["validate", "--dataset", "ROWS", "--out", "o", "--data-schema", '{"pandra": "x"}'],
            "pandera: Field required",
        ),
        (["validate", "--dataset", "ROWS", "--out", "o", "--data-schema", "@nowhere"], "@nowhere: no such file"),
        (["validate", "--dataset", "ROWS", "--out", "o", "--spec", "nowhere.yaml"], "nowhere.yaml: no such spec file"),
        (["validate", "--dataset", "ROWS", "--out", "o", "--set", "a=b"], "name one with --spec"),
        (["validate", "--dataset", "ROWS", "--out", "/proc/x", "--spec", "SPEC"], "--out /proc/x: cannot write there"),
        (["report", "--name", "x", "--out", "o", "--status", "[1]"], "expected an object as JSON, found '[1]'"),
        (["deploy", "--release", "ROWS", "--out", "o", "--nope", "1"], "unrecognized arguments: --nope"),
        (["gate", "--evaluation", "ROWS", "--model", "ROWS", "--out", "o", "--spec", "SPEC"], "found a system.Dataset"),
        (
            ["rollback", "--name", "x", "--out", "o", "--endpoint", "{endpoint: {kind: cloud}}"],
            "--endpoint: endpoint.endpoint.kind: no settings of an endpoint",
        ),
        (["rollback", "--name", "x", "--out", "o", "--endpoint", "{"], "--endpoint: neither JSON nor YAML"),
    ],
)
def test_bad_input_is_one_clear_line(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments, said
) -> None:
    from shipway.cli.step import main

    monkeypatch.chdir(tmp_path)
    # The spec makes its folder the project.
    monkeypatch.setenv("SHIPWAY_PROJECT", "")
    places = {"ROWS": str(rows / "dataset"), "SPEC": str(PENGUINS)}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("shipway: ")
    assert said in line


def test_damaged_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset.artifact.json").write_text('{"type": 3')
    with pytest.raises(InputError, match=r"--dataset .*: its description .*dataset\.artifact\.json is damaged"):
        run_stage(stages()["validate"], {"dataset": [str(tmp_path / "dataset")]}, {}, str(tmp_path / "out"))


def test_imports_of_the_command_are_few() -> None:
    heavy = ("polars", "numpy", "mlflow", "torch", "kfp.compiler", "fsspec", "s3fs")
    program = (
        "import sys; from shipway.platforms.steps import stages; stages()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_list_of_artifacts_is_given_one_by_one(shipway: Run, tmp_path: Path) -> None:
    done = shipway("step", "gather", "--help")
    assert "--parts PATH" in done.stdout
    assert "Once for each, in their order." in done.stdout
    options = {option.name: option for option in stages()["gather"].options}
    assert (options["parts"].many, options["profiles"].many, options["release"].many) == (True, True, False)
    (tmp_path / "release").write_text("{}")
    given = [f"--{name}={tmp_path / 'release'}" for name in ("release", "quarantine", "profiles")]
    parts = [f"--parts={tmp_path / 'release'}", f"--parts={tmp_path / 'missing'}"]
    line = refusal(shipway("step", "gather", *given, *parts, "--spec", PENGUINS, "--out", tmp_path / "out"))
    assert "--parts" in line
    assert "missing" in line
