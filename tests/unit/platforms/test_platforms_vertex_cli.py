"""`shipway submit --target vertex` as a user runs it: a process of its own, its lines and its exit code."""

import os
import subprocess
import sys
import time
from threading import Thread

import pytest
from google.cloud import aiplatform_v1 as v1
from vertex_runs import EXAMPLE
from vertex_stand_in import LOCATION, PROJECT, VertexStandIn

State = v1.PipelineTaskDetail.State
WITHIN = 60.0


def shipway(server: VertexStandIn, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shipway.cli.main", arguments[0], str(EXAMPLE / "shipway.yaml")]
    settings = [f"--set=vertex.project={PROJECT}", f"--set=vertex.location={LOCATION}"]
    environment = {**os.environ, "SHIPWAY_VERTEX_ENDPOINT": server.endpoint}
    return subprocess.run(
        [*command, "--target=vertex", *settings, *arguments[1:]], env=environment, capture_output=True, text=True
    )


def finish(server: VertexStandIn) -> None:
    """Lets the run end well as soon as it is part of its experiment."""
    until = time.monotonic() + WITHIN
    while not server.children and time.monotonic() < until:
        time.sleep(0.05)
    for job in server.jobs.values():
        states = {"ingest": State.SKIPPED, "gate": State.SUCCEEDED, "register": State.SUCCEEDED}
        job.job_detail.task_details = [
            v1.PipelineTaskDetail(task_id=number, task_name=name, state=state)
            for number, (name, state) in enumerate(states.items())
        ]
        job.state = v1.PipelineState.PIPELINE_STATE_SUCCEEDED


@pytest.mark.slow
def test_submit_follows_to_the_end_and_is_found_again() -> None:
    root = "--set=vertex.pipeline_root=gs://bucket/root"
    with VertexStandIn() as server:
        Thread(target=finish, args=(server,), daemon=True).start()
        first = shipway(server, "submit", root, "--key=k1", "--wait")
        second = shipway(server, "submit", root, "--key=k1")
        assert len(server.jobs) == 1
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "run penguins-training-k1  started  https://console.cloud.google.com/vertex-ai/" in first.stdout
    assert "the model is registered" in first.stdout
    assert "run penguins-training-k1  found" in second.stdout
    assert "endpoint.kind: none: deploy and smoke are left out" in first.stderr


@pytest.mark.slow
def test_a_refusal_is_one_line_and_its_exit_code() -> None:
    with VertexStandIn() as server:
        done = shipway(server, "submit")
        assert server.jobs == {}
    assert done.returncode == 2
    assert "shipway: vertex.pipeline_root: where do the artifacts go?" in done.stderr
    assert "Traceback" not in done.stderr
