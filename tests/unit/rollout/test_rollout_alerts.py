"""What people and the trigger service hear of a rollout."""

from pathlib import Path

import pytest
from rollout_memory_endpoint import Behaviour, release
from rollout_runs import NEW, NEW_ID, OLD, World, section

from shipway.notify.alerts import Alert
from shipway.rollout.rollout import roll_back, roll_out


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_that_a_version_is_live_comes_with_its_baseline(world: World) -> None:
    world.start(section())
    (alert,) = world.alerts
    assert (alert.kind, alert.cause) == ("live", "live")
    assert {name: alert.facts[name] for name in ("version", "stable", "revision")} == {
        "version": NEW,
        "stable": OLD,
        "revision": NEW_ID,
    }
    kept = world.ledger.baselines[NEW]
    assert alert.facts["baseline"] == {
        "latency_p99_ms": kept["p99_ms"],
        "error_rate": kept["error_rate"],
        "requests": kept["requests"],
    }


def test_a_rollback_says_which_version_went_and_which_is_back(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = Behaviour(errors=0.5)
    world.start(section())
    (alert,) = world.alerts
    assert (alert.kind, alert.cause, alert.facts["version"], alert.facts["stable"]) == (
        "rolled_back",
        "rollback",
        NEW,
        OLD,
    )


def test_no_two_rollouts_share_a_key(world: World) -> None:
    """A receiver that leaves out what it heard already must not leave out the next rollout's trouble."""
    rules = [{"metric": "error_rate", "max": 0.05, "action": "hold"}]
    world.endpoint.behaviours[NEW_ID] = Behaviour(errors=0.5)
    for _ in range(2):
        world.start(section(rules=rules))
        world.clock.sleep(60)
    keys = [alert.key for alert in world.alerts if alert.kind == "paused"]
    assert len(keys) == len(set(keys)) == 2
    assert all(key.startswith(f"rollout/flights/{NEW_ID}/") for key in keys)


def test_a_rollback_by_hand_is_told_after_the_traffic_is_back(world: World) -> None:
    world.start(section())
    shares: list[dict[str, int]] = []

    def hear(alert: Alert) -> None:
        shares.append(world.shares)
        world.alerts.append(alert)

    roll_back(
        "flights",
        world.endpoint,
        world.ledger,
        stable=release(OLD),
        reason="told so",
        alert=hear,
        report_path=world.path / "back.html",
        clock=world.clock,
        poll_seconds=1.0,
    )
    assert [alert.kind for alert in world.alerts] == ["live", "rolled_back"]
    assert [set(share.values()) for share in shares] == [{100}]
    assert NEW_ID not in shares[0]


def test_telling_takes_longer_than_a_usual_lease(world: World) -> None:
    """A receiver that hangs holds the controller up; nobody else may take the rollout over meanwhile."""
    left: list[float] = []

    def hear(_: Alert) -> None:
        lease = world.memory.lease
        assert lease is not None
        left.append(lease.expires - world.clock.now())

    roll_out(
        release(NEW),
        release(OLD),
        section(),
        world.endpoint,
        world.ledger,
        alert=hear,
        report_path=world.path / "rollout.html",
        clock=world.clock,
        poll_seconds=1.0,
    )
    assert min(left) > 60
