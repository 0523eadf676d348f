"""The metrics agree with scikit-learn's, and what is undefined is left out."""

import numpy as np
import pytest
from sklearn import metrics as reference

from shipway.model.scoring import PROBABILITY_EPSILON, Ranking, Scorer, calibration_bin
from shipway.spec.metrics import METRICS


def binary_case(seed: int, rows: int, ties: bool):
    random = np.random.default_rng(seed)
    truth = (random.random(rows) < 0.3).astype(int)
    score = 1 / (1 + np.exp(-(truth * 1.5 - 1 + random.normal(size=rows))))
    if ties:
        score = np.round(score, 1)
    return truth, np.column_stack([1 - score, score])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_binary_agrees_with_sklearn(seed, ties, threshold):
    truth, prediction = binary_case(seed, 500, ties)
    score, predicted = prediction[:, 1], (prediction[:, 1] >= threshold).astype(int)
    found = Scorer("binary", truth, prediction, threshold).metrics()
    expected = {
        "roc_auc": reference.roc_auc_score(truth, score),
        "pr_auc": reference.average_precision_score(truth, score),
        "f1": reference.f1_score(truth, predicted),
        "recall": reference.recall_score(truth, predicted),
        "accuracy": reference.accuracy_score(truth, predicted),
        "log_loss": reference.log_loss(truth, np.clip(prediction, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)),
    }
    if predicted.any():
        expected["precision"] = reference.precision_score(truth, predicted)
    calibration = found.pop("calibration_error")
    assert found == pytest.approx(expected, abs=1e-12)
    assert calibration == pytest.approx(naive_calibration_error(truth, score), abs=1e-12)


def naive_calibration_error(truth, score):
    total = 0.0
    for place in range(15):
        low, high = place / 15, (place + 1) / 15
        inside = (score >= low) & ((score < high) | (place == 14))
        if inside.any():
            total += inside.mean() * abs(truth[inside].mean() - score[inside].mean())
    return total


def test_calibration_bins_hold_both_ends():
    assert calibration_bin(np.array([0.0, 1 / 15 + 1e-9, 0.9999, 1.0])).tolist() == [0, 1, 14, 14]


@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_multiclass_agrees_with_sklearn(seed, ties):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, 400)
    raw = np.exp(random.normal(size=(400, 4)) + 1.2 * np.eye(4)[truth])
    prediction = raw / raw.sum(axis=1, keepdims=True)
    if ties:
        # Coarse, but rows still sum to one and no two classes of a row tie.
        prediction = np.round(prediction, 2) + np.array([0, 1e-6, 2e-6, 3e-6])
        prediction /= prediction.sum(axis=1, keepdims=True)
    found = Scorer("multiclass", truth, prediction).metrics()
    predicted = prediction.argmax(axis=1)
    one_hot = np.eye(4)[truth]
    expected = {
        "roc_auc": reference.roc_auc_score(truth, prediction, multi_class="ovr", average="macro"),
        "pr_auc": reference.average_precision_score(one_hot, prediction, average="macro"),
        "f1": reference.f1_score(truth, predicted, average="macro"),
        "precision": reference.precision_score(truth, predicted, average="macro"),
        "recall": reference.recall_score(truth, predicted, average="macro"),
        "accuracy": reference.accuracy_score(truth, predicted),
        "log_loss": reference.log_loss(truth, np.clip(prediction, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)),
    }
    assert found == pytest.approx(expected, abs=1e-9)


def test_multiclass_with_a_class_that_is_never_predicted_or_absent_counts_like_sklearn():
    truth = np.array([0, 0, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 3])
    prediction = np.full((5, 5), 0.1)
    prediction[np.arange(5), predicted] = 0.6
    found = Scorer("multiclass", truth, prediction).metrics()
    for name, score in [
        ("f1", reference.f1_score),
        ("precision", reference.precision_score),
        ("recall", reference.recall_score),
    ]:
        assert found[name] == pytest.approx(score(truth, predicted, average="macro", zero_division=0))
    present = [reference.roc_auc_score(truth == k, prediction[:, k]) for k in (0, 1, 2)]
    assert found["roc_auc"] == pytest.approx(np.mean(present))


@pytest.mark.parametrize("seed", range(3))
def test_regression_agrees_with_sklearn(seed):
    random = np.random.default_rng(seed)
    truth = random.normal(size=300) * 10 + 1e6
    prediction = truth + random.normal(size=300)
    found = Scorer("regression", truth, prediction[:, None]).metrics()
    expected = {
        "rmse": reference.root_mean_squared_error(truth, prediction),
        "mae": reference.mean_absolute_error(truth, prediction),
        "r2": reference.r2_score(truth, prediction),
    }
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_leave_out_what_is_undefined(label):
    found = Scorer("binary", np.full(4, label), np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])).metrics()
    assert "roc_auc" not in found
    assert "pr_auc" not in found
    assert ("recall" in found) == (label == 1)
    assert {"accuracy", "log_loss", "calibration_error"} <= set(found)


def test_precision_is_left_out_when_nothing_is_predicted_positive_but_f1_is_zero():
    found = Scorer("binary", np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])).metrics()
    assert "precision" not in found
    assert found["recall"] == 0
    assert found["f1"] == 0


def test_f1_is_left_out_when_nothing_is_positive_at_all():
    assert "f1" not in Scorer("binary", np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]])).metrics()


@pytest.mark.parametrize("values", [[5.0], [0.1, 0.1, 0.1], [1e9 + 0.1] * 7])
def test_r2_of_a_constant_is_left_out(values):
    found = Scorer("regression", np.array(values), np.zeros((len(values), 1)) + 1).metrics()
    assert set(found) == {"rmse", "mae"}


def test_certain_and_wrong_probabilities_give_a_finite_loss():
    found = Scorer("binary", np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]])).metrics()
    assert found["log_loss"] == pytest.approx(-np.log(PROBABILITY_EPSILON))
    assert found["roc_auc"] == 0


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_weights_mean_repeated_rows(task):
    random = np.random.default_rng(3)
    rows = 60
    if task == "regression":
        truth, prediction = random.normal(size=rows), random.normal(size=(rows, 1))
    else:
        classes = 2 if task == "binary" else 3
        truth = random.integers(0, classes, rows)
        prediction = np.round(random.dirichlet(np.ones(classes), rows), 1)
    scorer = Scorer(task, truth, prediction)
    weights = random.integers(0, 4, size=(8, rows)).astype(float)
    found = scorer.weighted(weights)
    assert list(found) == list(METRICS[task])
    for place, row in enumerate(weights.astype(int)):
        repeated = Scorer(task, np.repeat(truth, row), np.repeat(prediction, row, axis=0)).metrics()
        assert {name: values[place] for name, values in found.items()} == pytest.approx(repeated, abs=1e-9)


def test_roc_points_lie_on_sklearns_curve_and_are_finite_and_few():
    truth, prediction = binary_case(1, 20_000, ties=False)
    false, true, thresholds = Ranking(truth == 1, prediction[:, 1]).curve(200)
    assert len(false) <= 200
    assert np.isfinite(np.concatenate([false, true, thresholds])).all()
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert thresholds[0] >= prediction[:, 1].max()
    assert (np.diff(thresholds) < 0).all()
    positive, negative = prediction[truth == 1, 1], prediction[truth == 0, 1]
    for x, y, threshold in zip(false[1:], true[1:], thresholds[1:], strict=True):
        assert x == pytest.approx((negative >= threshold).mean())
        assert y == pytest.approx((positive >= threshold).mean())
    assert np.trapezoid(true, false) == pytest.approx(reference.roc_auc_score(truth, prediction[:, 1]), abs=2e-4)


def test_roc_with_few_points_is_sklearns_own():
    truth, prediction = binary_case(2, 40, ties=True)
    false, true, thresholds = Ranking(truth == 1, prediction[:, 1]).curve(200)
    expected = reference.roc_curve(truth, prediction[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])
    np.testing.assert_allclose(thresholds[1:], expected[2][1:])


def test_confusion_matrix():
    truth = np.array([0, 1, 2, 2, 1])
    prediction = np.eye(3)[[0, 2, 2, 1, 1]]
    scorer = Scorer("multiclass", truth, prediction)
    np.testing.assert_array_equal(scorer.confusion(), reference.confusion_matrix(truth, [0, 2, 2, 1, 1]))
