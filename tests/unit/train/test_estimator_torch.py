"""TorchEstimator and its trainer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_inputs import data, run_graph

from shipway.errors import InputError, ShipwayError, UserCodeError
from shipway.lineage.digests import digest_tree
from shipway.model.estimator import load_estimator
from shipway.model.preprocessor import NotConvertible
from shipway.spec import TorchTrain
from shipway.train.checkpoints import hold
from shipway.train.data import FeatureData
from shipway.train.torch_trainer import TorchTrainer, _cuts
from shipway.train.trainers import Fitted, TrainContext


def fit(tmp_path: Path, classes: int, part: FeatureData | None = None, **settings: Any) -> Fitted:
    task: Any = {0: "regression", 2: "binary"}.get(classes, "multiclass")
    with hold(tmp_path / "store") as store:
        context = TrainContext(task, max(classes, 1), store, lambda _epoch, _metrics: None)
        trainer = TorchTrainer(TorchTrain(trainer="torch", **{"epochs": 2, **settings}))
        result = trainer.fit(part or data(classes), data(classes, seed=1), context)
        store.clear()
    return result


def write_network(body: str) -> None:
    (Path(os.environ["SHIPWAY_PROJECT"]) / "net.py").write_text("import torch\nfrom torch import nn\n" + body)


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("hidden", [[], [8], [8, 5]])
def test_saved_loaded_and_converted_forms_agree(tmp_path: Path, classes: int, hidden: list[int]) -> None:
    fitted = fit(tmp_path, classes, hidden=hidden, dropout=0.2).estimator
    features = data(classes, seed=2).features
    native = fitted.predict(features)
    assert native.shape == (400, max(classes, 1))
    fitted.save(tmp_path / "one")
    loaded = load_estimator(tmp_path / "one")
    loaded.save(tmp_path / "two")
    assert digest_tree(tmp_path / "one") == digest_tree(tmp_path / "two")
    np.testing.assert_array_equal(loaded.predict(features), native)
    graph = loaded.to_onnx(4)
    np.testing.assert_allclose(run_graph(graph, features), native, atol=1e-5, rtol=1e-5)
    assert graph.SerializeToString(deterministic=True) == fitted.to_onnx(4).SerializeToString(deterministic=True)
    assert fitted.predict(features[:0]).shape == (0, max(classes, 1))


def test_global_state_of_torch_does_not_matter_and_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = fit(tmp_path, 2, dropout=0.3).estimator.predict(data(2).features)
    torch.manual_seed(2)
    torch.rand(100)
    threads = torch.get_num_threads()
    other = fit(tmp_path, 2, dropout=0.3).estimator.predict(data(2).features)
    np.testing.assert_array_equal(one, other)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_best_epoch_by_validation_loss_is_kept(tmp_path: Path) -> None:
    fitted = fit(tmp_path, 2, epochs=60, patience=3, lr=0.3, batch_size=16)
    losses = [metrics["val_loss"] for metrics in fitted.history]
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == min(60, fitted.best_epoch + 3) < 60
    validation = data(2, seed=1)
    chosen = fitted.estimator.predict(validation.features)[np.arange(400), validation.target]
    assert -np.log(chosen).mean() == pytest.approx(min(losses), rel=1e-5)


def test_regression_losses_and_values_are_in_the_targets_units(tmp_path: Path) -> None:
    parts = [data(0), data(0, seed=1)]
    parts = [FeatureData(part.features, part.target * 5000 + 1e6, part.names, part.version) for part in parts]
    with hold(tmp_path / "store") as store:
        context = TrainContext("regression", 1, store, lambda _epoch, _metrics: None)
        trainer = TorchTrainer(TorchTrain(trainer="torch", epochs=25, lr=0.02, batch_size=64))
        fitted = trainer.fit(parts[0], parts[1], context)
    error = ((fitted.estimator.predict(parts[1].features)[:, 0] - parts[1].target) ** 2).mean()
    assert error == pytest.approx(min(metrics["val_loss"] for metrics in fitted.history), rel=1e-3)
    assert error < 0.1 * parts[1].target.var()


def test_user_network_is_exported_without_traces_of_where_it_was_made(tmp_path: Path) -> None:
    write_network(
        "class Net(nn.Module):\n"
        "    def __init__(self, i, o):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(i, 6), nn.Linear(6, o)\n"
        "    def forward(self, x):\n"
        "        return self.b(torch.tanh(self.a(x)))\n"
        "def build(i, o): return Net(i, o)\n"
    )
    fitted = fit(tmp_path, 3, network="net.py:build").estimator
    fitted.save(tmp_path / "saved")
    features = data(3).features
    loaded = load_estimator(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(features), fitted.predict(features))
    graphs = [estimator.to_onnx(4) for estimator in (fitted, loaded)]
    content = graphs[0].SerializeToString(deterministic=True)
    assert content == graphs[1].SerializeToString(deterministic=True)
    assert b"net.py" not in content
    assert str(tmp_path).encode() not in content
    for rows in (1, 400):
        found = run_graph(graphs[0], features[:rows])
        np.testing.assert_allclose(found, fitted.predict(features[:rows]), atol=1e-5)


def test_network_that_cannot_be_exported_says_why(tmp_path: Path) -> None:
    write_network(
        "class Net(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x if x.sum() > 0 else -x)\n"
        "def build(i, o): return Net(i, o)\n"
    )
    fitted = fit(tmp_path, 2, network="net.py:build").estimator
    with pytest.raises(NotConvertible, match=r"torch's exporter refuses net\.py:build"):
        fitted.to_onnx(4)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("def build(i, o): return 5", InputError, r"net\.py:build: expected a torch\.nn\.Module, found int"),
        (
            "def build(i, o): return nn.Linear(i, o + 1)",
            InputError,
            r"give \(2, 3\), expected a tensor \(2, 2\)",
        ),
        ("def build(i, o): return nn.Linear(i + 1, o)", UserCodeError, r"net\.py:build: RuntimeError"),
        ("def build(i, o): raise ValueError('no')", UserCodeError, r"ValueError: no \(at .*net\.py:3 in build\)"),
        ("def build(i): return nn.Linear(i, 2)", UserCodeError, r"TypeError"),
        ("def build(i, o): return nn.Softmax(1)", InputError, "no parameters to train"),
        ("build = 5", InputError, "expected a function, found int"),
        ("other = 5", InputError, "has no 'build'"),
        ("def build(:", UserCodeError, "SyntaxError"),
        ("import nowhere_to_be_found", UserCodeError, "nowhere_to_be_found"),
    ],
)
def test_broken_networks_are_told_of(tmp_path: Path, body: str, error: type[ShipwayError], message: str) -> None:
    write_network(body + "\n")
    with pytest.raises(error, match=message):
        fit(tmp_path, 2, network="net.py:build")


def test_missing_features_and_divergence_are_named(tmp_path: Path) -> None:
    part = data(2)
    part.features[3:5, 1] = np.nan
    with pytest.raises(InputError, match=r"b \(2 rows\)"):
        fit(tmp_path, 2, part)
    with pytest.raises(ShipwayError, match=r"diverged: in epoch \d+ .*train\.lr"):
        fit(tmp_path, 0, lr=1e30, epochs=20)


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "other weights", "no code"])
def test_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    write_network("def build(i, o): return nn.Linear(i, o)\n")
    fit(tmp_path, 2, network="net.py:build").estimator.save(tmp_path / "saved")
    weights = tmp_path / "saved/weights.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif damage == "other weights":
        fit(tmp_path, 3).estimator.save(tmp_path / "other")
        weights.write_bytes((tmp_path / "other/weights.safetensors").read_bytes())
    else:
        (tmp_path / "saved/code/net.py").unlink()
    with pytest.raises(ShipwayError, match=r"saved|weights do not fit"):
        load_estimator(tmp_path / "saved").predict(data(2).features)


def test_importing_the_estimators_imports_no_heavy_library() -> None:
    program = (
        "import sys, shipway.model.torch_estimator, shipway.model.sklearn_estimator, shipway.train.run\n"
        "print([name for name in ('torch', 'sklearn', 'onnx', 'mlflow', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_lonely_last_row_joins_the_batch_before() -> None:
    assert list(_cuts(9, 4)) == [(0, 4), (4, 9)]
    assert list(_cuts(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(_cuts(1, 4)) == [(0, 1)]
    assert list(_cuts(3, 1)) == [(0, 1), (1, 3)]
