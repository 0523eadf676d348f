from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipway.endpoints.log_windows import join_outcomes, log_windows, logged_rows
from shipway.errors import InputError
from shipway.model.signature import InputColumn
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry
from shipway.spec.rollout import OutcomesSection

NOW = 1_000_000.0
INPUTS = [
    InputColumn(name="delay", kind="number", nullable=True),
    InputColumn(name="carrier", kind="category", nullable=True),
]


class Log:
    """A log that is written as a server writes it, at moments that a test names."""

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)
        self.now = NOW
        self.telemetry = Telemetry("flights", log=PredictionLog(self.uri), clock=lambda: self.now)

    def answer(
        self, now: float, revision: str, score: float, key: str = "", task: str = "binary", rows: int = 1
    ) -> None:
        self.now = now
        classes: list[Any] = [0, 1] if task == "binary" else []
        info = SimpleNamespace(name="flights", task=task, classes=classes, inputs=INPUTS, onnx=True)
        counter = self.telemetry.revision(revision, revision[1:], info, (0.25, 0.5))
        one = [1 - score, score] if classes else [score]
        counter.answered(score / 10, np.array([one] * rows), [{"delay": score, "carrier": None}] * rows, key)
        self.telemetry.windows(0, 0)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def test_windows_are_those_of_the_server(log: Log) -> None:
    draw = np.random.default_rng(0)
    for second in range(200):
        revision = f"v{1 + second % 2}"
        task = "binary" if second % 2 else "regression"
        log.answer(NOW + second, revision, float(draw.random()), task=task, rows=1 + second % 3)
    log.telemetry.close()
    for since, until in ((NOW, NOW + 200), (NOW + 50, NOW + 51), (NOW + 20, NOW + 90)):
        found = log_windows(log.uri, since, until)
        for revision, wanted in log.telemetry.windows(since, until).items():
            if not wanted.requests:
                assert revision not in found
                continue
            window = found[revision]
            assert window.model_dump(exclude={"features"}) == wanted.model_dump(exclude={"features"})
            for name, counts in wanted.features.items():
                assert window.features[name].model_dump() == pytest.approx(counts.model_dump())


def test_no_log_yet_has_no_windows(tmp_path: Path) -> None:
    assert log_windows(str(tmp_path / "none"), 0, NOW) == {}
    assert logged_rows(str(tmp_path / "none"), 10, NOW) == []


def test_a_damaged_part_is_named(log: Log) -> None:
    log.answer(NOW, "v1", 0.5)
    log.telemetry.close()
    (part,) = Path(log.uri).glob("*/*.parquet")
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(InputError, match=part.name):
        log_windows(log.uri, NOW - 1, NOW + 1)


def test_outcomes_by_the_key_of_the_last_prediction(log: Log, tmp_path: Path) -> None:
    for second, (revision, score, key) in enumerate(
        [("v1", 0.9, "a"), ("v1", 0.2, "b"), ("v1", 0.3, "c"), ("v2", 0.7, "c"), ("v2", 0.1, "d"), ("v2", 0.4, "")]
    ):
        log.answer(NOW + second, revision, score, key)
    log.answer(NOW + 100, "v1", 0.5, "late")
    log.telemetry.close()
    pl.DataFrame(
        {"id": ["a", "b", "c", "d"], "late": [1.0, 0.0, None, 0.0], "sales": [10, 20, 30, None]}
    ).write_parquet(tmp_path / "outcomes-1.parquet")
    pl.DataFrame({"id": ["late", "never"], "late": [1.0, 1.0], "sales": [1, 1]}).write_parquet(
        tmp_path / "outcomes-2.parquet"
    )
    section = OutcomesSection(uri=f"{tmp_path}/outcomes-*.parquet", key="id", label="late", business={"value": "sales"})
    found = join_outcomes(log.uri, section, NOW, NOW + 50)
    assert found["v1"].positive.tolist() == [0.9]
    assert found["v1"].negative.tolist() == [0.2]
    assert sorted(found["v1"].business["value"].tolist()) == [10, 20]
    assert found["v2"].positive.tolist() == []
    assert found["v2"].negative.tolist() == [0.1]
    assert found["v2"].business["value"].tolist() == [30]
    assert join_outcomes(log.uri, section, NOW + 60, NOW + 61) == {}


def test_outcomes_whose_key_is_no_number_join_with_nothing(log: Log, tmp_path: Path) -> None:
    log.answer(NOW, "v1", 0.5, "7")
    log.telemetry.close()
    frame = pl.DataFrame({"key": [7.0, float("nan")], "sales": [1.0, 2.0]})
    frame.write_parquet(tmp_path / "outcomes.parquet")
    section = OutcomesSection(uri=str(tmp_path / "outcomes.parquet"), business={"value": "sales"})
    found = join_outcomes(log.uri, section, NOW, NOW + 1)
    assert found["v1"].business["value"].tolist() == [1.0]


def test_outcomes_that_cannot_be_joined(log: Log, tmp_path: Path) -> None:
    log.answer(NOW, "v1", 0.5, "a")
    log.telemetry.close()
    pl.DataFrame({"key": ["a"], "sales": ["much"]}).write_parquet(tmp_path / "outcomes.parquet")

    def refused(**section: Any) -> str:
        with pytest.raises(InputError) as error:
            join_outcomes(log.uri, OutcomesSection(**section), NOW, NOW + 1)
        return str(error.value)

    uri = str(tmp_path / "outcomes.parquet")
    assert "no Parquet file there" in refused(uri=str(tmp_path / "none*.parquet"))
    assert "has no column 'late'" in refused(uri=uri, label="late")
    assert "expected numbers in column 'sales'" in refused(uri=uri, business={"value": "sales"})


def test_the_last_rows_to_send_again(log: Log) -> None:
    for second in range(20):
        log.answer(NOW + second, f"v{second % 2}", second / 100)
    log.telemetry.close()
    found = logged_rows(log.uri, 500, NOW + 10)
    assert sorted(row["delay"] for row in found) == [second / 100 for second in range(10)]
    assert len(logged_rows(log.uri, 3, NOW + 10)) == 3
    assert found[0].keys() == {"delay", "carrier"}
