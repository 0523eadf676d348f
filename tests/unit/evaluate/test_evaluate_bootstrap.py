"""The paired bootstrap agrees with the plain way of doing it, covers, and is quick."""

import time

import numpy as np
import pytest
from sklearn import metrics as reference

from shipway.evaluate.bootstrap import worse_by
from shipway.model.scoring import Scorer
from shipway.spec.metrics import METRICS


def models(random, rows, noise=(1.0, 1.1)):
    truth = (random.random(rows) < 0.3).astype(int)
    shared = random.normal(size=rows)
    made = []
    for scale in noise:
        score = 1 / (1 + np.exp(-(2 * truth - 1 + shared + scale * random.normal(size=rows))))
        made.append(np.column_stack([1 - score, score]))
    return truth, *made


def test_same_bounds_as_resampling_rows_one_by_one():
    rows, resamples = 200, 100
    truth, new, old = models(np.random.default_rng(0), rows)
    found = worse_by("binary", Scorer("binary", truth, new), Scorer("binary", truth, old), resamples=resamples, seed=7)
    random = np.random.default_rng(7)
    losses = {"roc_auc": [], "pr_auc": [], "accuracy": [], "log_loss": []}
    for _ in range(resamples):
        drawn = random.integers(0, rows, size=rows)
        labels, a, b = truth[drawn], new[drawn, 1], old[drawn, 1]
        losses["roc_auc"].append(reference.roc_auc_score(labels, b) - reference.roc_auc_score(labels, a))
        losses["pr_auc"].append(
            reference.average_precision_score(labels, b) - reference.average_precision_score(labels, a)
        )
        losses["accuracy"].append(np.mean((b >= 0.5) == labels) - np.mean((a >= 0.5) == labels))
        losses["log_loss"].append(reference.log_loss(labels, a) - reference.log_loss(labels, b))
    assert set(found) == set(METRICS["binary"])
    for name, values in losses.items():
        assert found[name] == pytest.approx(np.quantile(values, 0.95), abs=1e-9), name


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_agree_too(task):
    random = np.random.default_rng(1)
    rows, resamples = 150, 60
    if task == "regression":
        truth = random.normal(size=rows)
        new, old = truth[:, None] + random.normal(size=(rows, 1)), truth[:, None] + 0.8 * random.normal(size=(rows, 1))
    else:
        truth = random.integers(0, 3, rows)
        new, old = (random.dirichlet(np.ones(3), rows) + np.eye(3)[truth] * k for k in (0.2, 0.3))
    found = worse_by(task, Scorer(task, truth, new), Scorer(task, truth, old), resamples=resamples, seed=2)
    random = np.random.default_rng(2)
    losses = {name: [] for name in METRICS[task]}
    for _ in range(resamples):
        drawn = random.integers(0, rows, size=rows)
        a, b = (Scorer(task, truth[drawn], prediction[drawn]).metrics() for prediction in (new, old))
        for name, up in METRICS[task].items():
            losses[name].append(b[name] - a[name] if up else a[name] - b[name])
    assert found == pytest.approx({name: np.quantile(values, 0.95) for name, values in losses.items()}, abs=1e-9)


def test_deterministic_and_independent_of_how_resamples_are_chunked(monkeypatch):
    truth, new, old = models(np.random.default_rng(3), 300)
    new, old = Scorer("binary", truth, new), Scorer("binary", truth, old)
    first = worse_by("binary", new, old)
    assert worse_by("binary", new, old) == first
    monkeypatch.setattr("shipway.evaluate.bootstrap._CHUNK", 700)
    assert worse_by("binary", new, old) == pytest.approx(first, abs=1e-12)
    assert worse_by("binary", new, old, seed=1) != first


def test_a_model_is_no_worse_than_itself():
    truth, new, _ = models(np.random.default_rng(4), 300)
    scorer = Scorer("binary", truth, new)
    assert worse_by("binary", scorer, scorer) == dict.fromkeys(METRICS["binary"], 0.0)


def test_the_sign_says_which_is_worse():
    truth, good, bad = models(np.random.default_rng(5), 3000, noise=(0.5, 3.0))
    good, bad = Scorer("binary", truth, good), Scorer("binary", truth, bad)
    better, worse = worse_by("binary", good, bad), worse_by("binary", bad, good)
    for name in ("roc_auc", "pr_auc", "log_loss", "accuracy"):
        assert better[name] < 0 < worse[name], name


def test_the_bound_covers_the_true_difference_about_as_often_as_it_says():
    # Both models are equally good in truth, so the true difference is zero and the bound should lie above it in 95 % of
    # samples; 150 samples make 88 % to 100 % all but certain.
    random = np.random.default_rng(6)
    covered = 0
    for _ in range(150):
        truth, a, b = models(random, 150, noise=(1.0, 1.0))
        bound = worse_by("binary", Scorer("binary", truth, a), Scorer("binary", truth, b), resamples=200)
        covered += bound["roc_auc"] >= 0
    assert 0.88 <= covered / 150 <= 0.995


def test_metrics_that_most_resamples_cannot_define_are_left_out():
    truth = np.zeros(50, dtype=int)
    prediction = np.column_stack([np.linspace(0.6, 0.9, 50), np.linspace(0.4, 0.1, 50)])
    scorer = Scorer("binary", truth, prediction)
    assert set(worse_by("binary", scorer, scorer)) == {"accuracy", "log_loss", "calibration_error"}


def test_thirty_thousand_rows_take_seconds():
    truth, new, old = models(np.random.default_rng(9), 30_000)
    started = time.process_time()
    worse_by("binary", Scorer("binary", truth, new), Scorer("binary", truth, old), resamples=500)
    assert time.process_time() - started < 5
