"""Runs under a key: never two at once, whoever is killed when, and each is told of as it stands."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shipway.errors import InputError
from shipway.platforms.local_keys import check_key, find_run, keyed_id
from shipway.report.summary import ModelSummary, Summary

# Begins a run, says so in a file, and ends it when its standard input ends; a second one finds it ended.
CHILD = """\
import sys
from pathlib import Path
from shipway.platforms.local_keys import ended_run, only_of_its_key

runs, run_id, summary = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with only_of_its_key(runs, run_id, lambda process: print("waits for", process, flush=True)):
    if ended_run(runs / run_id) is None:
        (runs / run_id).mkdir(exist_ok=True)
        with (runs / run_id / "begun").open("a") as begun:
            begun.write("once\\n")
        print("runs", flush=True)
        sys.stdin.read()
        (runs / run_id / "summary.json").write_text(summary)
    else:
        print("found", flush=True)
"""
RUN = "m-training-abc"


def summary(exit_code: int = 0) -> str:
    return Summary(
        run_id=RUN,
        spec="m.yaml",
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        outcome="shipped",
        exit_code=exit_code,
        steps=[],
        model=ModelSummary(name="m"),
        code_version="abc",
        spec_digest="sha256:s",
    ).model_dump_json()


@pytest.fixture
def begin(tmp_path: Path):
    children: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(tmp_path), RUN, summary()]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_one_that_is_killed_goes_on_and_one_that_ended_is_found(
    tmp_path: Path, begin: Callable[[], subprocess.Popen[str]]
) -> None:
    assert find_run(tmp_path, RUN).state == "absent"
    first = begin()
    assert said(first) == "runs"
    assert find_run(tmp_path, RUN).state == "running"
    second = begin()
    assert said(second) == f"waits for {first.pid}"
    third = begin()
    assert said(third) == f"waits for {first.pid}"
    first.send_signal(signal.SIGKILL)
    first.wait()
    # One of those that waited is at it now, and the other still waits.
    deadline = time.monotonic() + 30
    while (tmp_path / RUN / "begun").read_text() != "once\nonce\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert find_run(tmp_path, RUN).state == "running"
    for child in (second, third):
        assert child.stdin is not None
        child.stdin.close()
    words = sorted(said(child) for child in (second, third))
    assert words == ["found", "runs"]
    assert [child.wait(30) for child in (second, third)] == [0, 0]
    assert (tmp_path / RUN / "begun").read_text() == "once\nonce\n"
    found = find_run(tmp_path, RUN)
    assert (found.state, found.folder) == ("ended", tmp_path / RUN)
    assert found.summary is not None
    assert found.summary.outcome == "shipped"


def test_a_run_whose_process_is_gone_is_told_of_as_killed(
    tmp_path: Path, begin: Callable[[], subprocess.Popen[str]]
) -> None:
    child = begin()
    assert said(child) == "runs"
    child.kill()
    child.wait()
    assert find_run(tmp_path, RUN).state == "killed"
    (tmp_path / RUN / "summary.json").write_text(json.dumps({"run_id": RUN}))
    with pytest.raises(InputError, match="not a Summary document"):
        find_run(tmp_path, RUN)


@pytest.mark.parametrize("key", ["", "Upper", "-dash", "dash-", "a" * 41, "a/b", "..", "a b"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="--key: expected at most 40 lower-case letters, digits and dashes"):
        check_key(key)


def test_a_key_makes_the_run_id() -> None:
    assert keyed_id("flights", "training", "t0123456789abcdef") == "flights-training-t0123456789abcdef"
