"""Rollouts that read the prediction log: outcomes that come later, and requests that are sent again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from rollout_memory_endpoint import Behaviour
from rollout_runs import NEW, NEW_ID, OLD, OLD_ID, World, section

from shipway.model.signature import InputColumn
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry

INFO: Any = SimpleNamespace(
    name="flights",
    task="binary",
    classes=[0, 1],
    inputs=[InputColumn(name="delay", kind="number", nullable=True)],
    onnx=True,
)
AUC = [{"metric": "auc", "max_drop": 0.03, "action": "rollback", "incident": True}]
SALES = [{"metric": "business.sales", "max_drop": 0.05, "action": "halt"}]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def write_log(world: World, skill: float, sales: float, requests: int = 1200) -> dict[str, Any]:
    """Logs requests to both versions while the rollout is going to run, and returns where their outcomes are.

    Args:
        world: Whose clock says when.
        skill: How much the new version's scores say of the label; the old one's say 0.9.
        sales: What each of the new version's predictions sells on the mean; the old one's sell 10.
        requests: How many, over a minute.
    """
    draw = np.random.default_rng(0)
    moment = [world.clock.now()]
    telemetry = Telemetry("flights", log=PredictionLog(str(world.path / "log")), clock=lambda: moment[0])
    counters = [telemetry.revision(OLD_ID, OLD, INFO, (0.5,)), telemetry.revision(NEW_ID, NEW, INFO, (0.5,))]
    outcomes: dict[str, list[Any]] = {"id": [], "late": [], "sold": []}
    for number in range(requests):
        moment[0] += 60 / requests
        new = number % 2
        late = bool(draw.random() < 0.4)
        told = skill if new else 0.9
        score = told * (0.2 + 0.6 * late) + (1 - told) * draw.random() + 0.05 * draw.random()
        score = min(score, 1.0)
        counters[new].answered(0.001, np.array([[1 - score, score]]), [{"delay": score}], f"k{number}")
        outcomes["id"].append(f"k{number}")
        outcomes["late"].append(late)
        outcomes["sold"].append(float(draw.normal(sales if new else 10.0, 1.0)))
    telemetry.windows(0, 0)
    telemetry.close()
    pl.DataFrame(outcomes).write_parquet(world.path / "outcomes.parquet")
    uri = str(world.path / "outcomes.parquet")
    return {"uri": uri, "key": "id", "label": "late", "business": {"sales": "sold"}}


@pytest.mark.parametrize(
    ("rules", "skill", "sales", "outcome", "reason"),
    [
        (AUC, 0.0, 10.0, "rolled_back", "auc"),
        (SALES, 0.9, 6.0, "halted", "business.sales"),
        ([*AUC, *SALES], 0.9, 10.0, "live", "good"),
    ],
    ids=["auc", "sales", "equal"],
)
def test_outcomes_judge_a_version(
    world: World, rules: list[dict[str, Any]], skill: float, sales: float, outcome: str, reason: str
) -> None:
    outcomes = write_log(world, skill, sales)
    ended = world.start(section(rules=rules, outcomes=outcomes), log_uri=str(world.path / "log"))
    assert ended == outcome
    assert reason in world.memory.reason
    assert (NEW in world.ledger.marked) == (outcome == "rolled_back")
    assert world.shares == {NEW_ID if outcome == "live" else OLD_ID: 100}


def test_outcomes_that_cannot_be_read_leave_the_rule_open_and_say_why(world: World) -> None:
    outcomes = write_log(world, 0.0, 10.0) | {"uri": str(world.path / "nowhere.parquet")}
    assert world.start(section(rules=AUC, outcomes=outcomes), log_uri=str(world.path / "log")) == "live"
    notes = [rule.note for step in world.report().steps for rule in step.verdicts if "auc" in rule.key]
    assert notes
    assert all("outcomes cannot be had" in note and "nowhere.parquet" in note for note in notes)


def test_thin_traffic_is_made_up_for_by_logged_requests(world: World) -> None:
    write_log(world, 0.9, 10.0, requests=40)
    world.clock.sleep(120)
    world.endpoint.behaviours = {OLD_ID: Behaviour(rate=0.5), NEW_ID: Behaviour(rate=0.5)}
    spec = section(replay=True, min_requests=30, warm_up=0, steps=[50, 100], patience="1m", hold="1m")
    world.start(spec, log_uri=str(world.path / "log"))
    sent = [call for call in world.endpoint.calls if call.startswith("predict")]
    assert len(sent) >= 30
    assert set(sent) == {f"predict {NEW_ID} 1"}


def test_without_replay_nothing_is_sent(world: World) -> None:
    write_log(world, 0.9, 10.0, requests=40)
    world.endpoint.behaviours = {OLD_ID: Behaviour(rate=0.5), NEW_ID: Behaviour(rate=0.5)}
    world.start(section(min_requests=30, warm_up=0, steps=[50, 100], patience="1m", hold="1m"))
    assert not [call for call in world.endpoint.calls if call.startswith("predict")]
