"""The happy path on the real Vertex AI: a run is started once, found again and cancelled; a schedule comes and goes.

Needs credentials with the role that docs/vertex.md names, SHIPWAY_VERTEX_TEST_PROJECT and SHIPWAY_VERTEX_TEST_ROOT
(a gs:// folder); SHIPWAY_VERTEX_TEST_LOCATION names another region than us-central1. The steps' images need not exist:
the run is cancelled as soon as Vertex has taken it.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.endpoints.vertex_client import Vertex
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms import vertex
from shipway.platforms.arguments import training_arguments
from shipway.platforms.compile import compile_pipeline
from shipway.platforms.submission import Submission
from shipway.spec import load_spec

PROJECT = os.environ.get("SHIPWAY_VERTEX_TEST_PROJECT", "")
ROOT = os.environ.get("SHIPWAY_VERTEX_TEST_ROOT", "")
LOCATION = os.environ.get("SHIPWAY_VERTEX_TEST_LOCATION", "us-central1")
EXAMPLE = Path(__file__).parents[2] / "pipelines/examples/penguins"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PROJECT and ROOT), reason="SHIPWAY_VERTEX_TEST_PROJECT and SHIPWAY_VERTEX_TEST_ROOT are not set"
    ),
]


@pytest.fixture
def submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submission:
    monkeypatch.setenv(PROJECT_VARIABLE, str(EXAMPLE))
    settings = [f"vertex.project={PROJECT}", f"vertex.location={LOCATION}", f"vertex.pipeline_root={ROOT}"]
    spec = load_spec(EXAMPLE / "shipway.yaml", settings)
    path = tmp_path / "pipeline.yaml"
    compile_pipeline("training", spec, path, target="vertex")
    key = f"test-{uuid.uuid4().hex[:12]}"
    return Submission(spec, "training", path.read_text(), "test", training_arguments(spec), key)


@pytest.fixture
def cleaned(submission: Submission) -> Iterator[Submission]:
    yield submission
    asked = Vertex(submission.spec.vertex)
    job = {"name": f"{asked.parent}/pipelineJobs/{submission.run_name}"}
    asked.ask("cancelling the test's run", asked.pipelines.cancel_pipeline_job, job)


def test_a_run_is_started_once_and_belongs_to_its_experiment(cleaned: Submission) -> None:
    first, second = vertex.submit(cleaned), vertex.submit(cleaned)
    assert (first.created, second.created, second.name) == (True, False, first.name)
    assert first.status().state in ("pending", "running", "failed")
    asked = Vertex(cleaned.spec.vertex)
    context = {"name": f"{asked.store}/contexts/{cleaned.spec.name}"}
    experiment = asked.ask("reading the experiment", asked.metadata.get_context, context)
    assert experiment.schema_title == "system.Experiment"


def test_a_schedule_is_made_once_changed_paused_and_deleted(submission: Submission) -> None:
    name = f"shipway-{submission.key}"
    wanted = {"name": name, "cron": "0 3 1 1 *", "timezone": "Europe/Paris"}
    try:
        first, second = (vertex.create_schedule(submission, **wanted) for _ in range(2))
        assert first.id == second.id
        changed = vertex.create_schedule(submission, **{**wanted, "cron": "0 4 1 1 *"})
        assert (changed.id, changed.cron, changed.timezone) == (first.id, "0 4 1 1 *", "Europe/Paris")
        assert not vertex.pause_schedule(submission.spec, name).enabled
        assert vertex.resume_schedule(submission.spec, name).enabled
        assert name in {info.name for info in vertex.list_schedules(submission.spec)}
    finally:
        vertex.delete_schedule(submission.spec, name)
    assert name not in {info.name for info in vertex.list_schedules(submission.spec)}
