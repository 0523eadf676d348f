"""Whole rollouts on an endpoint in memory with a clock that the tests turn."""

from pathlib import Path

import pytest
from rollout_memory_endpoint import Behaviour, release
from rollout_runs import BASELINE_ID, NEW, NEW_ID, OLD, OLD_ID, World, section

from shipway.endpoints.protocol import NotReadyError, UnsupportedError
from shipway.errors import InputError, NotBlessedError, RejectedError, ShipwayError
from shipway.rollout.rollout import roll_back, roll_out, send_command
from shipway.rollout.stage import going_back_to

BAD = {
    "errors": Behaviour(errors=0.5),
    "slow": Behaviour(milliseconds=60.0),
    "shifted": Behaviour(bins=[*[0.0] * 10, *[0.1] * 10]),
}


def walked(world: World) -> list[int]:
    """Returns the candidate's shares, in the order they were set."""
    found = [0]
    for state in world.endpoint.states:
        mine = state.revision(NEW_ID)
        share = mine.share if mine else 0
        if share != found[-1]:
            found.append(share)
    return found


def rollback(world: World, reason: str = "told so") -> str:
    return roll_back(
        "flights",
        world.endpoint,
        world.ledger,
        stable=release(OLD),
        reason=reason,
        alert=world.alerts.append,
        report_path=world.path / "back.html",
        clock=world.clock,
        poll_seconds=1.0,
    ).outcome


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_good_version_walks_all_steps(world: World) -> None:
    assert world.start(section(shadow={"bake": "20s", "min_requests": 50})) == "live"
    assert walked(world) == [0, 5, 25, 100]
    assert world.shares == {NEW_ID: 100}
    assert (world.ledger.champion, world.ledger.previous) == (NEW, OLD)
    assert [found.id for found in world.endpoint.seen().revisions] == [NEW_ID]
    assert world.ledger.baselines[NEW]["requests"] > 1000
    assert world.ledger.baselines[NEW]["p99_ms"] >= 1
    report = world.report()
    assert [step.label for step in report.steps] == ["shadow", "5 %", "25 %", "100 %"]
    assert all(step.requests >= 50 and step.ended == "judged good" for step in report.steps)
    page = (world.path / "rollout.html").read_text()
    assert "judged good at every step" in page
    assert "latency_p99_ms" in page
    assert [alert.kind for alert in world.alerts] == ["live"]
    assert world.memory.lease is None


def test_the_shadow_gets_requests_and_no_traffic(world: World) -> None:
    world.start(section(strategy="shadow", shadow={"bake": "20s", "min_requests": 50, "percent": 50}))
    mirrored = [found for state in world.endpoint.states for found in state.revisions if found.mirror]
    assert {(found.id, found.share, found.mirror) for found in mirrored} == {(NEW_ID, 0, 50)}
    assert walked(world) == [0, 100]


@pytest.mark.parametrize("trouble", ["errors", "slow"])
def test_a_bad_version_is_rolled_back_and_marked(world: World, trouble: str) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD[trouble]
    assert world.start(section()) == "rolled_back"
    assert walked(world) == [0, 5, 0]
    assert world.shares == {OLD_ID: 100}
    assert world.ledger.marked == {NEW}
    assert world.ledger.champion == OLD
    assert world.endpoint.seen().revision(NEW_ID) is None
    report = world.report()
    assert report.seconds_to_roll_back is not None
    assert 0 <= report.seconds_to_roll_back < 90
    assert {"errors": "error_rate", "slow": "latency_p99_ms"}[trouble] in report.reason
    with pytest.raises(RejectedError, match="marked"):
        world.ledger.check(release(NEW))


def test_a_version_that_turns_bad_at_100_percent_is_rolled_back_at_once(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = Behaviour(errors=0.5, since=world.clock.now() + 55)
    assert world.start(section()) == "rolled_back"
    assert walked(world) == [0, 5, 25, 100, 0]
    assert world.report().seconds_to_roll_back == pytest.approx(3, abs=4)


def test_a_condition_has_to_hold_for_as_long_as_the_rule_says(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = Behaviour(errors=0.5)
    rules = [{"metric": "error_rate", "max": 0.05, "for": "15s"}]
    assert world.start(section(rules=rules)) == "rolled_back"
    step = world.report().steps[0]
    assert step.until is not None
    assert step.until - step.since >= 15


def test_halt_brings_the_traffic_back_and_marks_nothing(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["errors"]
    assert world.start(section(rules=[{"metric": "error_rate", "max": 0.05, "action": "halt"}])) == "halted"
    assert world.shares == {OLD_ID: 100}
    assert world.ledger.marked == set()


@pytest.mark.parametrize("change", [{"dry_run": True}, {"action": "alert"}])
def test_a_dry_run_or_an_alert_ends_nothing(world: World, change: dict[str, object]) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["errors"]
    assert world.start(section(rules=[{"metric": "error_rate", "max": 0.05, **change}])) == "live"
    assert world.heard("rule") == (0 if "dry_run" in change else 3)


def test_shifted_predictions_hold_until_nobody_came(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["shifted"]
    began = world.clock.now()
    assert world.start(section()) == "rolled_back"
    assert world.clock.now() - began >= 300
    assert world.heard("paused") == 1
    assert world.ledger.marked == set()
    assert "psi" in world.report().reason


@pytest.mark.parametrize(("kind", "outcome"), [("resume", "live"), ("abort", "halted")])
def test_a_person_decides_about_a_hold(world: World, kind: str, outcome: str) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["shifted"]

    def decide(call: str) -> None:
        if call == "windows" and world.memory.paused is not None and world.memory.command is None:
            world.endpoint.before = lambda _call: None
            send_command(world.endpoint, kind, "ann", world.clock)
            world.endpoint.before = decide

    world.endpoint.before = decide
    assert world.start(section()) == outcome
    assert world.shares == ({NEW_ID: 100} if outcome == "live" else {OLD_ID: 100})
    if kind == "abort":
        assert "ann" in world.report().reason


def test_commands_without_a_rollout_or_a_pause_are_refused(world: World) -> None:
    with pytest.raises(InputError, match="no rollout is under way"):
        send_command(world.endpoint, "resume", "ann", world.clock)

    def command(call: str) -> None:
        if call == "windows":
            world.endpoint.before = lambda _call: None
            with pytest.raises(InputError, match="not paused"):
                send_command(world.endpoint, "resume", "ann", world.clock)
            send_command(world.endpoint, "abort", "bob", world.clock)

    world.endpoint.before = command
    assert world.start(section()) == "halted"


def test_without_metrics_it_pauses_and_goes_on_by_itself_once_they_come(world: World) -> None:
    world.endpoint.metrics_away = True

    def turn(call: str) -> None:
        if call == "windows" and world.memory.paused is not None:
            world.endpoint.metrics_away = False

    world.endpoint.before = turn
    assert world.start(section()) == "live"
    assert world.heard("paused") == 1


def test_without_metrics_at_all_it_goes_back_in_the_end(world: World) -> None:
    world.endpoint.metrics_away = True
    assert world.start(section()) == "rolled_back"
    assert world.shares == {OLD_ID: 100}
    assert "metrics are away" in world.report().reason


def test_thin_traffic_is_waited_for_and_then_inconclusive(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = Behaviour(rate=0.5)
    assert world.start(section()) == "rolled_back"
    assert "too few requests" in world.report().reason


def test_blue_green_moves_all_at_once_and_keeps_the_old_one_warm(world: World) -> None:
    assert world.start(section(strategy="blue_green", keep_warm="60s")) == "live"
    assert walked(world) == [0, 100]
    step = world.report().steps[0]
    assert step.until is not None
    assert step.until - step.since >= 60
    latency = next(verdict for verdict in step.verdicts if "latency" in verdict.key)
    assert latency.baseline is not None


def test_blue_green_compares_with_what_the_old_one_did_before(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["slow"]
    assert world.start(section(strategy="blue_green")) == "rolled_back"
    assert walked(world) == [0, 100, 0]


def test_a_fresh_baseline_gets_as_much_as_the_candidate(world: World) -> None:
    assert world.start(section(baseline="fresh")) == "live"
    shares = []
    for state in world.endpoint.states:
        found = {revision.id: revision.share for revision in state.revisions if revision.share}
        if found not in shares:
            shares.append(found)
    assert shares == [
        {OLD_ID: 100},
        {NEW_ID: 5, BASELINE_ID: 5, OLD_ID: 90},
        {NEW_ID: 25, BASELINE_ID: 25, OLD_ID: 50},
        {NEW_ID: 100},
    ]
    assert [found.id for found in world.endpoint.seen().revisions] == [NEW_ID]


def test_the_first_rollout_has_nothing_to_compare_with(tmp_path: Path) -> None:
    world = World(tmp_path, old="")
    assert world.start(section()) == "live"
    assert walked(world) == [0, 100]
    assert world.ledger.champion == NEW


def test_a_bad_first_version_keeps_the_traffic_and_is_an_incident(tmp_path: Path) -> None:
    world = World(tmp_path, old="")
    world.endpoint.behaviours[NEW_ID] = BAD["errors"]
    assert world.start(section()) == "live"
    assert world.shares == {NEW_ID: 100}
    assert [alert.severity for alert in world.alerts] == ["incident", "info"]
    assert "error_rate" in world.alerts[0].text
    assert world.ledger.champion == NEW


def test_a_first_version_goes_live_without_callers(tmp_path: Path) -> None:
    world = World(tmp_path, old="")
    world.endpoint.behaviours[NEW_ID] = Behaviour(rate=0.0)
    assert world.start(section()) == "live"
    assert not [alert for alert in world.alerts if alert.severity != "info"]


def test_a_version_that_is_live_already_is_left_alone(world: World) -> None:
    assert world.start(section()) == "live"
    calls = len(world.endpoint.calls)
    assert world.start(section()) == "live"
    assert world.endpoint.calls[calls:] == []
    assert "nothing to do" in world.report().reason


def test_an_endpoint_that_lost_everything_gets_the_old_version_first(world: World) -> None:
    world.endpoint.remove(OLD_ID)
    assert world.start(section()) == "live"
    assert walked(world) == [0, 5, 25, 100]


def test_an_unblessed_version_never_reaches_the_endpoint(world: World) -> None:
    with pytest.raises(NotBlessedError):
        roll_out(
            release(NEW, blessed=False),
            release(OLD),
            section(),
            world.endpoint,
            world.ledger,
            alert=world.alerts.append,
            report_path=world.path / "rollout.html",
            clock=world.clock,
        )
    assert world.endpoint.calls == []


@pytest.mark.parametrize("call", ["stage", "mirror"])
def test_what_the_endpoint_cannot_do_ends_the_rollout_with_its_reason(world: World, call: str) -> None:
    world.endpoint.refuses[f"{call} {NEW_ID}"] = UnsupportedError("set endpoint.control")
    assert world.start(section(shadow={"bake": "5s", "min_requests": 1})) == "rolled_back"
    assert "set endpoint.control" in world.report().reason
    assert world.ledger.marked == set()
    assert world.shares == {OLD_ID: 100}


def test_a_candidate_that_dies_is_taken_out_and_not_marked(world: World) -> None:
    def kill(call: str) -> None:
        if call == "windows" and world.memory.step == 1:
            world.endpoint.set_ready(NEW_ID, False, "killed by signal 9")

    world.endpoint.before = kill
    assert world.start(section()) == "rolled_back"
    assert "killed by signal 9" in world.report().reason
    assert world.ledger.marked == set()


def test_an_old_version_that_is_gone_at_the_rollback_is_put_there_again(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["errors"]

    def lose(call: str) -> None:
        if call == "status" and world.memory.stage == "back" and NEW_ID in world.shares:
            world.endpoint.before = lambda _call: None
            world.endpoint.remove(OLD_ID)

    world.endpoint.before = lambda call: lose(call) if world.endpoint.seen().record else None
    assert world.start(section()) == "rolled_back"
    assert world.shares == {OLD_ID: 100}


def test_an_old_version_that_cannot_be_put_back_is_an_incident(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["errors"]
    world.endpoint.refuses[f"stage {OLD_ID}"] = NotReadyError("no machine is left")

    def lose(call: str) -> None:
        if call == "windows" and world.memory.steps:
            world.endpoint.set_ready(OLD_ID, False)

    world.endpoint.before = lose
    assert world.start(section()) == "halted"
    assert world.alerts[-1].severity == "incident"
    assert "no machine is left" in world.report().reason


def test_golden_rows_that_mostly_fail_keep_a_version_from_any_traffic(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = Behaviour(errors=1.0)
    assert world.start(section()) == "rolled_back"
    assert walked(world) == [0]
    assert "warm-up" in world.report().reason


def test_another_versions_rollout_is_not_disturbed(world: World) -> None:
    world.endpoint.behaviours[NEW_ID] = BAD["shifted"]

    def third(call: str) -> None:
        if call == "windows" and world.memory.paused is not None:
            world.endpoint.before = lambda _call: None
            with pytest.raises(ShipwayError, match=r"version 2 is being rolled out .*paused.* version 3 has to wait"):
                world.start(section(), version="3")

    world.endpoint.before = third
    assert world.start(section()) == "rolled_back"


def test_a_rollback_returns_traffic_first_and_marks_the_version(world: World) -> None:
    world.start(section())
    assert rollback(world) == "rolled_back"
    assert world.shares == {OLD_ID: 100}
    assert world.ledger.marked == {NEW}
    assert world.ledger.champion == OLD
    assert "told so" in (world.path / "back.html").read_text()
    assert rollback(world) == "rolled_back"


def test_a_rollback_without_the_registry_moves_the_traffic_says_so_and_is_finished_later(world: World) -> None:
    world.start(section())
    world.ledger.away = True
    with pytest.raises(ShipwayError, match=r"all traffic is back, but not .*: tell rolled_back: the registry"):
        rollback(world)
    assert world.shares == {OLD_ID: 100}
    assert (world.alerts[-1].kind, world.ledger.champion) == ("rolled_back", NEW)
    status = world.endpoint.status()
    assert going_back_to(status, world.memory, "") == world.memory.stable.release
    world.ledger.away = False
    assert rollback(world) == "rolled_back"
    assert (world.ledger.champion, world.ledger.marked) == (OLD, {NEW})
    with pytest.raises(InputError, match="rolled back already"):
        going_back_to(status, world.memory, "")


def test_a_rollback_ends_a_rollout_that_another_controls(world: World) -> None:
    def turn(call: str) -> None:
        if call == "windows" and world.memory.step == 1:
            world.endpoint.before = lambda _call: None
            rollback(world, "it smells")

    world.endpoint.before = turn
    assert world.start(section()) == "rolled_back"
    assert world.shares == {OLD_ID: 100}
    assert "it smells" in world.report().reason


def test_a_rollback_without_anything_to_go_back_to_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, old="")
    with pytest.raises(InputError, match="nothing is served"):
        rollback(world)
    world = World(tmp_path)
    with pytest.raises(InputError, match="has all the traffic already"):
        rollback(world)
