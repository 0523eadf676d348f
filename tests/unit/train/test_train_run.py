"""The whole train step: packages, digests, MLflow runs, resuming after kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from train_inputs import Inputs, make_inputs, raw_rows, run_training, sklearn_section, torch_section

from shipway.errors import InputError, ShipwayError, UserCodeError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import NumberStatistics
from shipway.model.package import Package
from shipway.model.profile import prediction_values
from shipway.train.run import train_model

pytestmark = pytest.mark.slow

NETWORK = """
import os
import torch
from layers import Block

class Net(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.body = torch.nn.Sequential(Block(inputs, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2))
        self.head = torch.nn.Linear(8, outputs)
        self.epochs = 0

    def train(self, mode=True):
        self.epochs += bool(mode)
        if mode and os.environ.get("HOLD_AT") == str(self.epochs):
            open(os.environ["HOLD_FIFO"]).read()
        if mode and os.environ.get("FAIL_AT") == str(self.epochs):
            raise RuntimeError("out of luck")
        return super().train(mode)

    def forward(self, x):
        return self.head(self.body(x))

def build(inputs, outputs):
    return Net(inputs, outputs)
"""

LAYERS = """
import torch

class Block(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = torch.nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.nn.functional.gelu(self.linear(x))
"""


def write_network() -> None:
    project = Path(os.environ["SHIPWAY_PROJECT"])
    (project / "model.py").write_text(NETWORK)
    (project / "layers.py").write_text(LAYERS)


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest, state: Path, make_state: Callable[[Path], str]) -> None:
    if request.function is not test_train_makes_its_database_without_noise:
        make_state(state)


def tracked(state: Path) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{state / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("thing")
    return list(client.search_runs([experiment.experiment_id]))


def logged_epochs(state: Path, run_id: str) -> list[int]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{state / 'mlflow.db'}")
    return sorted(entry.step for entry in client.get_metric_history(run_id, "epoch_val_loss"))


def kill_in_epoch(epoch: int, inputs: Inputs, section: str, model: Path, tmp_path: Path, number: int) -> None:
    """Runs a training up to the beginning of an epoch and ends it there with a signal."""
    fifo = tmp_path / f"hold-{epoch}-{number}"
    os.mkfifo(fifo)
    variables = {"HOLD_AT": str(epoch), "HOLD_FIFO": str(fifo)}
    process = subprocess.Popen(
        inputs.command(section, model), env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
    )
    # Opening for writing waits for the reader, which is the training at the beginning of its epoch.
    with fifo.open("w"):
        process.send_signal(number)
        if number == signal.SIGTERM:
            # Python acts on a signal when the blocking call returns, and it returns with the signal.
            process.wait(60)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("trainer", ["torch", "sklearn"])
def test_package_is_the_same_for_the_same_rows_in_any_order_and_directory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_state: Callable[[Path], str],
    task: str,
    trainer: str,
) -> None:
    torch = trainer == "torch"
    section = torch_section(epochs=3, hidden=[8], dropout=0.1, lr=0.01) if torch else sklearn_section()
    results = []
    for place, shuffle in [("here", None), ("elsewhere/deeper", 3)]:
        folder = tmp_path / place
        monkeypatch.setenv("SHIPWAY_STATE", make_state(folder / "state"))
        inputs = make_inputs(folder / "inputs", task, shuffle=shuffle)
        result = train_model(**inputs.arguments(section, folder / "model"))
        assert result.digest == digest_tree(folder / "model")
        assert result.onnx, result.onnx_note
        results.append(result)
    assert results[0].digest == results[1].digest
    assert results[0].metrics == results[1].metrics
    assert list((tmp_path / "here/state/checkpoints").iterdir()) == []


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_both_trainers_learn(tmp_path: Path, task: str) -> None:
    inputs = make_inputs(tmp_path / "inputs", task, rows=1500)
    metric, bound = ("val_r2", 0.9) if task == "regression" else ("val_roc_auc", 0.95)
    for section in (torch_section(epochs=30, hidden=[16], lr=0.01, batch_size=128), sklearn_section()):
        result = train_model(**inputs.arguments(section, tmp_path / "model"))
        assert result.metrics[metric] > bound
        rows = raw_rows(50, task, seed=9)
        ways = [Package.load(tmp_path / "model", onnx=onnx).predict(rows) for onnx in (True, False)]
        np.testing.assert_allclose(*ways, rtol=1e-5, atol=1e-5)


def test_settings_and_data_change_the_digest(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    other = make_inputs(tmp_path / "other", rows=601)
    sections = [torch_section(epochs=2), torch_section(epochs=2, seed=1), torch_section(epochs=2, lr=0.01)]
    digests = {train_model(**inputs.arguments(section, tmp_path / "model")).digest for section in sections}
    digests.add(train_model(**other.arguments(sections[0], tmp_path / "model")).digest)
    assert len(digests) == 4


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bits(
    tmp_path: Path, state: Path, make_state: Callable[[Path], str]
) -> None:
    write_network()
    inputs = make_inputs(tmp_path / "inputs")
    section = torch_section(network="model.py:build", epochs=6, patience=6, batch_size=64)
    undisturbed = run_training(inputs, section, tmp_path / "model", SHIPWAY_STATE=make_state(tmp_path / "calm"))
    assert undisturbed["resumed_from_epoch"] == 0
    assert undisturbed["onnx"], undisturbed["onnx_note"]

    kill_in_epoch(3, inputs, section, tmp_path / "killed", tmp_path, signal.SIGKILL)
    [folder] = (state / "checkpoints").iterdir()
    left = sorted(path.name for path in folder.glob("*.json"))
    assert left == ["epoch-00001.json", "epoch-00002.json", "mlflow.json"]
    assert [run.info.status for run in tracked(state)] == ["RUNNING"]
    resumed = run_training(inputs, section, tmp_path / "killed")

    assert resumed["resumed_from_epoch"] == 2
    assert resumed["digest"] == undisturbed["digest"]
    assert resumed["metrics"] == undisturbed["metrics"]
    weights = [tmp_path / name / "estimator/weights.safetensors" for name in ("model", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert list((state / "checkpoints").iterdir()) == []
    [run] = tracked(state)
    assert run.info.status == "FINISHED"
    assert run.info.run_id == resumed["mlflow_run_id"]
    assert logged_epochs(state, run.info.run_id) == [1, 2, 3, 4, 5, 6]


def test_interrupted_training_resumes_from_a_whole_checkpoint(
    tmp_path: Path, state: Path, make_state: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network()
    inputs = make_inputs(tmp_path / "inputs")
    section = torch_section(network="model.py:build", epochs=4, patience=4)
    monkeypatch.setenv("SHIPWAY_STATE", make_state(tmp_path / "calm"))
    undisturbed = train_model(**inputs.arguments(section, tmp_path / "model"))

    monkeypatch.setenv("SHIPWAY_STATE", str(state))
    monkeypatch.setenv("FAIL_AT", "4")
    with pytest.raises(UserCodeError, match=r"model\.py:build: RuntimeError: out of luck .*model\.py:\d+"):
        train_model(**inputs.arguments(section, tmp_path / "again"))
    monkeypatch.delenv("FAIL_AT")
    assert [run.info.status for run in tracked(state)] == ["FAILED"]
    [folder] = (state / "checkpoints").iterdir()
    newest = folder / "epoch-00003.safetensors"
    newest.write_bytes(newest.read_bytes()[:200])
    resumed = train_model(**inputs.arguments(section, tmp_path / "again"))
    assert resumed.resumed_from_epoch == 2
    assert resumed.digest == undisturbed.digest
    # The failed run stays as it was; the new one has every epoch.
    assert sorted(run.info.status for run in tracked(state)) == ["FAILED", "FINISHED"]
    assert logged_epochs(state, resumed.mlflow_run_id) == [1, 2, 3, 4]


@pytest.mark.slow
def test_sigterm_ends_the_mlflow_run_as_killed(tmp_path: Path, state: Path) -> None:
    write_network()
    inputs = make_inputs(tmp_path / "inputs")
    section = torch_section(network="model.py:build", epochs=4)
    kill_in_epoch(2, inputs, section, tmp_path / "model", tmp_path, signal.SIGTERM)
    assert [run.info.status for run in tracked(state)] == ["KILLED"]
    assert train_model(**inputs.arguments(section, tmp_path / "model")).resumed_from_epoch == 1


def test_user_network_package_predicts_from_its_own_copy_of_the_code(tmp_path: Path) -> None:
    write_network()
    inputs = make_inputs(tmp_path / "inputs")
    result = train_model(**inputs.arguments(torch_section(network="model.py:build", epochs=2), tmp_path / "model"))
    assert sorted(path.name for path in (tmp_path / "model/estimator/code").glob("*.py")) == ["layers.py", "model.py"]
    for name in ("model.py", "layers.py"):
        (tmp_path / "project" / name).unlink()
    program = (
        "import sys, json, polars as pl; from shipway.model.package import Package\n"
        "package = Package.load(sys.argv[1], onnx=False)\n"
        "print(json.dumps(package.predict(package.golden()).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    package = Package.load(tmp_path / "model", digest=result.digest)
    np.testing.assert_allclose(json.loads(done.stdout), package.predict(package.golden()), atol=1e-5)


def test_tracking_holds_parameters_losses_metrics_and_tags(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPWAY_RUN_ID", "run-7")
    monkeypatch.setenv("SHIPWAY_GIT_SHA", "abc123")
    inputs = make_inputs(tmp_path / "inputs")
    result = train_model(**inputs.arguments(torch_section(epochs=3, lr=0.02), tmp_path / "model"))
    [run] = tracked(state)
    assert run.info.run_id == result.mlflow_run_id
    assert run.info.run_name == "run-7"
    assert run.data.params["lr"] == "0.02"
    assert run.data.params["hidden"] == "[64, 32]"
    assert run.data.metrics["val_roc_auc"] == pytest.approx(result.metrics["val_roc_auc"])
    assert run.data.metrics["epoch_val_loss"] > 0
    assert run.data.tags["shipway.model_digest"] == result.digest
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    manifest = json.loads((inputs.folder / "train_features/dataset.json").read_text())
    assert run.data.tags["shipway.train_features_version"] == manifest["version"]
    # Nothing of the run may enter the package.
    for path in (tmp_path / "model").rglob("*"):
        assert path.is_dir() or result.mlflow_run_id.encode() not in path.read_bytes()


def test_given_mlflow_run_is_logged_to_and_left_open(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shipway.lineage.tracking import client

    made = client().create_run(client().create_experiment("thing"))
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    inputs = make_inputs(tmp_path / "inputs")
    result = train_model(**inputs.arguments(sklearn_section(), tmp_path / "model"))
    assert result.mlflow_run_id == made.info.run_id
    [run] = tracked(state)
    assert run.info.status == "RUNNING"
    assert run.data.tags["shipway.model_digest"] == result.digest


def test_unknown_mlflow_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    inputs = make_inputs(tmp_path / "inputs")
    with pytest.raises(ShipwayError, match=r"MLflow at sqlite.*0000"):
        train_model(**inputs.arguments(sklearn_section(), tmp_path / "model"))


def test_failed_training_ends_its_run_as_failed(tmp_path: Path, state: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    section = sklearn_section(params={"learning_rate": -1.0})
    with pytest.raises(InputError, match=r"train\.params.*learning_rate"):
        train_model(**inputs.arguments(section, tmp_path / "model"))
    assert [run.info.status for run in tracked(state)] == ["FAILED"]


def test_unreachable_mlflow_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    inputs = make_inputs(tmp_path / "inputs")
    with pytest.raises(ShipwayError, match=uri):
        train_model(**inputs.arguments(sklearn_section(estimator="no_such:Thing"), tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_train_makes_its_database_without_noise(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs", rows=100)
    done = subprocess.run(
        inputs.command(torch_section(epochs=1), tmp_path / "model"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert "mlflow" not in done.stderr.lower()
    assert "alembic" not in done.stderr.lower()


def test_statistics_and_rows_reach_the_package(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    train_model(**inputs.arguments(sklearn_section(), tmp_path / "model"))
    assert (tmp_path / "model/statistics.json").read_bytes() == (inputs.folder / "statistics").read_bytes()
    golden = pl.read_parquet(tmp_path / "model/golden.parquet")
    raw = pl.read_parquet(inputs.folder / "validation/*.parquet").select(golden.columns)
    assert golden.height == golden.join(raw, on=golden.columns, how="semi", nulls_equal=True).height


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_package_describes_its_predictions_of_the_validation_part(tmp_path: Path, task: str) -> None:
    inputs = make_inputs(tmp_path / "inputs", task)
    train_model(**inputs.arguments(sklearn_section(), tmp_path / "model"))
    package = Package.load(tmp_path / "model")
    found = package.prediction_statistics()
    assert found is not None
    raw = pl.read_parquet(inputs.folder / "validation/*.parquet")
    values = prediction_values(package.info, package.predict(raw))
    assert (found.rows, found.nulls) == (raw.height, 0)
    if isinstance(found, NumberStatistics):
        assert found.mean == pytest.approx(values.mean(), rel=1e-4)
        assert found.quantiles[0] == pytest.approx(values.min(), rel=1e-4, abs=1e-5)
    else:
        assert found.counts == dict(pl.Series(values).value_counts().iter_rows())
    assert package.statistics().rows == raw.height * 3
