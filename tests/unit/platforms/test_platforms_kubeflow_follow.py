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
