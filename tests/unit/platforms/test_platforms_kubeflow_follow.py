"""Following a run on a platform: what is shown, how it ends, what an outage does. The run is a script."""

import io
from collections.abc import Sequence

import pytest

from shipway.endpoints.client import UnreachableError
from shipway.errors import ShipwayError
from shipway.platforms.display import Display
from shipway.platforms.follow import (
    RemoteStatus,
    RemoteStep,
    State,
    VanishedError,
    follow,
)

NAMES = ["ingest", "admit", "train", "gate", "register", "report"]


class Script:
    """A run whose answers are written down; a clock that goes on only when someone waits."""

    name = "flights-training-abc"
    link = "https://kubeflow.example.com/#/runs/details/1"

    def __init__(self, *answers: RemoteStatus | ShipwayError) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.now = 0.0
        self.waits: list[float] = []

    def status(self) -> RemoteStatus:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, ShipwayError):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def follow(self, names: Sequence[str] = NAMES, timeout: float | None = None) -> tuple[int, str]:
        stream = io.StringIO()
        with Display(stream) as display:
            code = follow(self, names, display, timeout_seconds=timeout, sleep=self.sleep, clock=lambda: self.now)
        return code, stream.getvalue()


def status(state: State, message: str = "", **steps: State) -> RemoteStatus:
    return RemoteStatus(state, [RemoteStep(name, found, 3.0) for name, found in steps.items()], message)


def test_steps_are_shown_once_in_their_order() -> None:
    run = Script(
        status("pending"),
        status("running", ingest="running"),
        status("running", admit="succeeded", ingest="succeeded", train="running"),
        status(
            "succeeded",
            ingest="succeeded",
            admit="succeeded",
            train="succeeded",
            gate="succeeded",
            register="succeeded",
        ),
    )
    code, shown = run.follow()
    assert code == 0
    lines = [line.split()[1] for line in shown.splitlines()]
    assert lines == ["ingest", "admit", "train", "gate", "register", "flights-training-abc"]
    assert "succeeded: the model is registered" in shown
    assert run.waits == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("last", "code", "expected"),
    [
        (status("succeeded", gate="succeeded"), 3, "the gates did not bless the model"),
        (status("succeeded", gate="succeeded", register="skipped"), 3, "the gates did not bless the model"),
        (status("failed", admit="failed"), 3, "the data were rejected"),
        (status("failed", "out of memory", train="failed"), 1, "failed: out of memory"),
        (status("cancelled", train="cancelled"), 1, "run flights-training-abc cancelled"),
        (status("succeeded"), 1, "its steps are not known any more"),
        (status("failed", report="failed", gate="succeeded"), 1, "run flights-training-abc failed"),
    ],
)
def test_the_exit_code_tells_how_it_ended(last: RemoteStatus, code: int, expected: str) -> None:
    found, shown = Script(last).follow()
    assert found == code
    assert expected in shown
    assert Script.link in shown


def test_a_pipeline_that_registers_nothing_succeeds() -> None:
    assert Script(status("succeeded", ingest="succeeded")).follow(["ingest"])[0] == 0


def test_an_outage_is_said_once_and_sat_out() -> None:
    down = UnreachableError("https://kubeflow.example.com: asking for run x: no connection")
    run = Script(down, down, status("running"), down, status("succeeded", register="succeeded"))
    code, shown = run.follow()
    assert code == 0
    assert shown.count("still asking") == 2
    assert run.asked == 5


def test_an_outage_without_end_ends() -> None:
    run = Script(UnreachableError("no connection"))
    with pytest.raises(ShipwayError, match=r"gave up after 600 s, the run may go on: https://kubeflow"):
        run.follow()
    assert 600 <= run.now <= 610


def test_the_time_to_follow_holds_through_an_outage() -> None:
    run = Script(UnreachableError("no connection"))
    with pytest.raises(ShipwayError, match="has not ended after 12 s; it goes on, see"):
        run.follow(timeout=12)
    assert run.waits == [5.0, 5.0, 2.0]


def test_the_time_to_follow_is_kept() -> None:
    run = Script(status("running", train="running"))
    with pytest.raises(ShipwayError, match="has not ended after 7 s; it goes on, see https://kubeflow"):
        run.follow(timeout=7)
    assert run.waits == [5.0, 2.0]


@pytest.mark.parametrize("error", [VanishedError("someone deleted it"), ShipwayError("401 Unauthorized")])
def test_what_does_not_pass_ends_it_at_once(error: ShipwayError) -> None:
    run = Script(status("running"), error)
    with pytest.raises(type(error), match=str(error)):
        run.follow()
    assert run.asked == 2


def loop(state: State, *passes: State) -> RemoteStatus:
    return RemoteStatus(state, [RemoteStep("predict", found, 3.0, message=found) for found in passes])


def test_a_step_of_a_loop_ends_when_all_its_passes_have() -> None:
    names = ["predict", "gather", "report"]
    run = Script(
        loop("running", "pending", "pending"),
        loop("running", "succeeded", "pending"),
        loop("running", "succeeded", "running"),
        loop("succeeded", "succeeded", "succeeded"),
    )
    code, shown = run.follow(names)
    assert code == 0
    assert shown.count("predict") == 1
    assert "✓ predict" in shown


def test_a_step_of_a_loop_fails_with_any_of_its_passes() -> None:
    run = Script(loop("running", "failed", "running", "pending"), loop("failed", "failed", "succeeded", "succeeded"))
    code, shown = run.follow(["predict", "gather", "report"])
    assert code == 1
    assert "✗ predict" in shown
    assert "✓ predict" not in shown
    assert "step predict failed: failed" in shown


def test_rows_that_are_refused_are_no_refused_version() -> None:
    refused = RemoteStep(
        "screen", "failed", 3.0, message="The replica workerpool0-0 exited with a non-zero status of 3."
    )
    code, shown = Script(RemoteStatus("failed", [refused])).follow(["screen", "predict", "gather", "report"])
    assert code == 3
    assert "screen refused the rows" in shown


def test_a_batch_that_is_scored_needs_no_registration() -> None:
    code, shown = Script(status("succeeded", screen="succeeded", gather="succeeded")).follow(["screen", "gather"])
    assert code == 0
    assert "succeeded" in shown
    assert "registered" not in shown
