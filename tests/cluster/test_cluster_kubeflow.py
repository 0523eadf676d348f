"""The scenarios of the stand-in's tests against a real Kubeflow Pipelines server.

Each test works under a name of its own; what it leaves on the server (a pipeline, an experiment, runs of penguins)
bears the name `penguins-` and twelve hexadecimal digits.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest
from kubeflow_scenarios import (
    a_changed_pipeline_becomes_a_version,
    another_key_starts_another_run,
    prepared,
    schedules_are_made_changed_paused_and_deleted,
    the_same_submission_finds_the_first_run,
)

from shipway.errors import InputError
from shipway.platforms import kubeflow
from shipway.platforms.kubeflow_auth import connect
from shipway.platforms.kubeflow_server import experiment_name, find_experiment
from shipway.platforms.submission import Submission

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (os.environ.get("KFP_HOST") or os.environ.get("KUBECONFIG")),
        reason="needs a Kubeflow Pipelines server: set KFP_HOST or KUBECONFIG (see docs/kubeflow.md)",
    ),
]


@pytest.fixture
def submission() -> Iterator[Submission]:
    made = prepared()
    yield made
    clean(made)


@pytest.fixture
def scheduled() -> Iterator[Submission]:
    made = prepared(scheduled=True)
    yield made
    with contextlib.suppress(InputError):
        kubeflow.delete_schedule(made.spec, "nightly")


def clean(submission: Submission) -> None:
    """Ends what still runs; the images of the examples are on no registry of the cluster's."""
    server = connect(submission.spec.kubeflow)
    held_by = find_experiment(server, experiment_name(submission.spec))
    runs = server.client.list_runs(experiment_id=held_by, page_size=100).runs or [] if held_by else []
    for run in runs:
        if str(run.state) in ("PENDING", "RUNNING"):
            server.client.terminate_run(run.run_id)


def test_the_same_submission_finds_the_first_run(submission: Submission) -> None:
    the_same_submission_finds_the_first_run(submission)


def test_another_key_starts_another_run(submission: Submission) -> None:
    another_key_starts_another_run(submission)


def test_a_changed_pipeline_becomes_a_version(submission: Submission) -> None:
    a_changed_pipeline_becomes_a_version(submission)


def test_a_schedule_is_made_changed_paused_and_deleted(scheduled: Submission) -> None:
    schedules_are_made_changed_paused_and_deleted(scheduled)
