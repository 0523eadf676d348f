"""What submitting and scheduling on Kubeflow must do, against a stand-in and against a real server alike."""

import dataclasses
import uuid
from pathlib import Path

import pytest

from shipway.errors import InputError
from shipway.platforms import kubeflow
from shipway.platforms.submission import Submission, prepare

PENGUINS = Path(__file__).parents[3] / "pipelines" / "examples" / "penguins" / "shipway.yaml"


def prepared(name: str = "", scheduled: bool = False) -> Submission:
    """Prepares the penguins' pipeline under a name that nothing on the server bears yet."""
    name = name or f"penguins-{uuid.uuid4().hex[:12]}"
    return prepare(PENGUINS, "kubeflow", settings=[f"name={name}"], scheduled=scheduled)


def the_same_submission_finds_the_first_run(submission: Submission) -> None:
    first = kubeflow.submit(submission)
    assert first.created
    assert first.name == submission.run_name
    assert first.id in first.link
    second = kubeflow.submit(submission)
    assert not second.created
    assert second.id == first.id
    assert second.link == first.link
    assert second.status().state in ("pending", "running", "succeeded", "failed")


def another_key_starts_another_run(submission: Submission) -> None:
    first = kubeflow.submit(submission)
    second = kubeflow.submit(dataclasses.replace(submission, key="another"))
    assert second.created
    assert second.id != first.id


def a_changed_pipeline_becomes_a_version(submission: Submission) -> None:
    first = kubeflow.submit(submission)
    text = submission.text.replace("Validates, trains, judges", "Judges")
    assert text != submission.text
    second = kubeflow.submit(dataclasses.replace(submission, text=text, version="0123456789abcdef", key="changed"))
    assert second.created
    assert second.id != first.id


def schedules_are_made_changed_paused_and_deleted(submission: Submission) -> None:
    spec = submission.spec
    assert kubeflow.list_schedules(spec) == []
    made = kubeflow.create_schedule(submission, name="nightly", cron="0 3 * * *")
    assert (made.name, made.cron, made.timezone, made.enabled) == ("nightly", "0 0 3 * * *", "UTC", True)
    assert "T03:00:00" in made.next_run
    assert kubeflow.create_schedule(submission, name="nightly", cron="0 3 * * *").id == made.id
    paused = kubeflow.pause_schedule(spec, "nightly")
    assert (paused.id, paused.enabled, paused.next_run) == (made.id, False, "")
    assert not kubeflow.create_schedule(submission, name="nightly", cron="0 3 * * *").enabled
    assert kubeflow.resume_schedule(spec, "nightly").enabled
    changed = kubeflow.create_schedule(submission, name="nightly", cron="0 4 * * *", max_concurrency=2, catch_up=True)
    assert changed.id != made.id
    assert changed.enabled
    assert [info.id for info in kubeflow.list_schedules(spec)] == [changed.id]
    kubeflow.delete_schedule(spec, "nightly")
    assert kubeflow.list_schedules(spec) == []
    with pytest.raises(InputError, match="has no schedule 'nightly'; it has none"):
        kubeflow.pause_schedule(spec, "nightly")
