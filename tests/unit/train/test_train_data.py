"""Loading features and choosing rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from train_inputs import raw_rows

from shipway.dataset import DatasetWriter
from shipway.errors import InputError
from shipway.train.data import load_features, sample_rows
from shipway.train.metrics import part_metrics, roc_auc


def write(folder: Path, frame: pl.DataFrame, step: int = 1000) -> Path:
    with DatasetWriter(folder, part_rows=step) as writer:
        writer.write(frame)
    return folder


def features(rows: int = 50) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {"b": rng.normal(size=rows).astype(np.float32), "a": rng.integers(0, 3, rows).astype(np.float32)}
    ).with_columns(pl.Series("__label__", rng.integers(0, 2, rows)))


def test_rows_in_another_order_load_the_same(tmp_path: Path) -> None:
    frame = features()
    one = load_features(write(tmp_path / "one", frame), ["a", "b"], 2, seed=4)
    other = load_features(write(tmp_path / "two", frame.reverse(), step=7), ["a", "b"], 2, seed=4)
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.target, other.target)
    assert one.version == other.version
    assert one.features.dtype == np.float32
    assert not (np.diff(one.features[:, 0]) >= 0).all()
    seeded = load_features(tmp_path / "one", ["a", "b"], 2, seed=5)
    assert not np.array_equal(one.features, seeded.features)


def test_negative_zero_is_zero(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": pl.Series([-0.0, 0.0], dtype=pl.Float32), "__label__": [0, 1]})
    loaded = load_features(write(tmp_path / "data", frame), ["a"], 2, seed=0)
    assert not np.signbit(loaded.features).any()


@pytest.mark.parametrize(
    ("change", "classes", "message"),
    [
        (pl.lit(None, dtype=pl.Int64), 2, "nulls"),
        (pl.lit(5), 2, "class indices 0 to 1"),
        (pl.lit(0.5), 2, "expected class indices"),
        (pl.lit(float("inf")), 0, "not finite"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, change: pl.Expr, classes: int, message: str) -> None:
    frame = features().with_columns(change.alias("__label__"))
    with pytest.raises(InputError, match=message):
        load_features(write(tmp_path / "data", frame), ["a"], classes, seed=0)


def test_missing_columns_and_rows_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", features())
    with pytest.raises(InputError, match=r"\['c'\]"):
        load_features(folder, ["a", "c"], 2, seed=0)
    with pytest.raises(InputError, match="no rows"):
        load_features(write(tmp_path / "none", features().head(0)), ["a"], 2, seed=0)


def test_sampled_rows_do_not_depend_on_order(tmp_path: Path) -> None:
    frame = raw_rows(500, "binary", seed=0)
    one = sample_rows(write(tmp_path / "one", frame), 40)
    other = sample_rows(write(tmp_path / "two", frame.reverse(), step=33), 40)
    assert one.height == 40
    assert one.equals(other)
    assert sample_rows(tmp_path / "one", 10_000).height == 500


def test_metrics_agree_with_sklearn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(1)
    target = rng.integers(0, 3, 300)
    scores = (rng.dirichlet(np.ones(3), 300) + 0.01).round(2)
    scores /= scores.sum(axis=1, keepdims=True)
    found = part_metrics("multiclass", target, scores)
    assert found["loss"] == pytest.approx(metrics.log_loss(target, scores))
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(target, scores, multi_class="ovr"))
    binary = part_metrics("binary", target[target < 2], scores[target < 2][:, :2])
    assert binary["roc_auc"] == pytest.approx(metrics.roc_auc_score(target[target < 2], scores[target < 2][:, 1]))
    values, guesses = rng.normal(size=200), rng.normal(size=(200, 1))
    regression = part_metrics("regression", values, guesses)
    assert regression["r2"] == pytest.approx(metrics.r2_score(values, guesses[:, 0]))
    assert regression["mae"] == pytest.approx(metrics.mean_absolute_error(values, guesses[:, 0]))


def test_roc_auc_of_one_class_is_unknown() -> None:
    assert roc_auc(np.ones(3, dtype=bool), np.array([0.1, 0.2, 0.3])) is None
    assert "roc_auc" not in part_metrics("binary", np.ones(3, dtype=int), np.full((3, 2), 0.5))
