"""How a run in containers starts a model server: what it sees of this machine, by the command line of `docker`."""

import json
from pathlib import Path

import pytest

from shipway.platforms.docker import Sandbox, _mounts, start_server

SECRET = "not for a command line"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox, with a `docker` on the path that tells what it was given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    docker = tools / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "secret=$AWS_SECRET_ACCESS_KEY"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    state = tmp_path / "state"
    (state / "endpoints" / "production").mkdir(parents=True)
    return Sandbox(tmp_path / "project", state, tmp_path / "run", tmp_path / "launcher", None)


def started(sandbox: Sandbox, *arguments: str) -> list[str]:
    log = sandbox.state / "endpoints" / "production" / "flights.log"
    server = start_server("sha256:1", "shipway-server-1", arguments, log, sandbox)
    assert server.wait() == 0
    return log.read_text().splitlines()


def test_a_server_sees_its_endpoints_and_nothing_else(sandbox: Sandbox) -> None:
    table = str(sandbox.state / "endpoints" / "production" / "flights.table")
    told = started(sandbox, "--table", table)
    endpoints = sandbox.state / "endpoints"
    assert [word for word in told if word.startswith("type=bind")] == [
        f"type=bind,source={endpoints},target={endpoints}"
    ]
    assert told[-4:-1] == ["sha256:1", "--table", table]
    assert "--env" not in told
    assert not (sandbox.state / "predictions").exists()


def test_a_server_may_write_the_prediction_log_and_read_a_flag_providers_file(sandbox: Sandbox) -> None:
    log = sandbox.state / "predictions" / "flights"
    told = started(sandbox, "--log-uri", str(log), "--flag", "tier", "--flag-provider", "flags.py:provider")
    assert f"type=bind,source={log.parent},target={log.parent}" in told
    assert f"type=bind,source={sandbox.project},target={sandbox.project},readonly" in told
    assert f"SHIPWAY_PROJECT={sandbox.project}" in told
    assert log.parent.is_dir()
    assert "AWS_SECRET_ACCESS_KEY" not in told


def test_credentials_for_a_log_in_an_object_store_stand_on_no_command_line(sandbox: Sandbox) -> None:
    told = started(sandbox, "--log-uri", "s3://bucket/predictions")
    assert told[told.index("AWS_SECRET_ACCESS_KEY") - 1] == "--env"
    assert [line for line in told if SECRET in line] == [f"secret={SECRET}"]


@pytest.mark.parametrize("step", ["predict", "gather"])
def test_the_steps_of_a_batch_may_keep_and_remove_finished_parts(sandbox: Sandbox, tmp_path: Path, step: str) -> None:
    command = [
        "--executor_input",
        json.dumps({"outputs": {"outputFile": str(tmp_path / "out" / "executor_output.json")}}),
    ]
    mounts = {mount["Target"]: mount["ReadOnly"] for mount in _mounts(step, command, tmp_path / "tmp", sandbox)}
    assert mounts[str(sandbox.state)] is False
