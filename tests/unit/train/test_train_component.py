"""The KFP component: what it leaves for the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import dsl
from train_inputs import make_inputs, sklearn_section

from shipway.lineage.digests import digest_tree
from shipway.lineage.steps import read_record
from shipway.train.component import train


def run(tmp_path: Path, section: str) -> tuple[dsl.Model, dsl.Metrics]:
    inputs = make_inputs(tmp_path / "inputs").arguments(section, tmp_path / "outputs/model")
    given = {
        name: (dsl.Artifact if name in ("preprocessor", "statistics") else dsl.Dataset)(uri=inputs[name])
        for name in ("train_features", "validation_features", "validation", "preprocessor", "statistics")
    }
    model, metrics = dsl.Model(uri=inputs["model"]), dsl.Metrics(uri=str(tmp_path / "outputs/metrics"))
    train.python_func(**given, model=model, metrics=metrics, train=section)
    return model, metrics


def test_outputs_and_record(tmp_path: Path) -> None:
    model, metrics = run(tmp_path, sklearn_section(params={"max_iter": 10}))
    digest = digest_tree(model.path)
    assert model.metadata["digest"] == digest
    assert model.metadata["framework"] == "sklearn"
    assert model.metadata["onnx"] is True
    assert model.metadata["mlflow_run_id"]
    assert metrics.metadata["val_roc_auc"] > 0.9
    record = read_record(tmp_path / "outputs")
    assert record is not None
    assert record.status == "succeeded"
    assert record.facts["model_digest"] == digest
    assert record.facts["resumed_from_epoch"] == 0
    assert record.facts["val_loss"] == pytest.approx(metrics.metadata["val_loss"])


def test_bad_setting_ends_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        run(tmp_path, sklearn_section(params={"nonsense": 1}))
    assert end.value.code == 2
    record = read_record(tmp_path / "outputs")
    assert record is not None
    assert "no parameter 'nonsense'" in record.reason[0]
