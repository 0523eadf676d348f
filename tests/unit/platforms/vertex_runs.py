"""What the tests of Vertex hand over: the penguins' pipeline, compiled for Vertex."""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vertex_stand_in import LOCATION, PROJECT, VertexStandIn

from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms import vertex
from shipway.platforms.arguments import training_arguments
from shipway.platforms.compile import compile_pipeline
from shipway.platforms.submission import Submission
from shipway.spec import load_spec

EXAMPLE = Path(__file__).parents[3] / "pipelines/examples/penguins"
SETTINGS = [f"vertex.project={PROJECT}", f"vertex.location={LOCATION}", "vertex.pipeline_root=gs://bucket/root"]


def submission(settings: Sequence[str] = (), key: str = "k1") -> Submission:
    os.environ[PROJECT_VARIABLE] = str(EXAMPLE)
    spec = load_spec(EXAMPLE / "shipway.yaml", [*SETTINGS, *settings])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_pipeline("training", spec, path, target="vertex")
        text = path.read_text()
    return Submission(spec, "training", text, "version-of-it", training_arguments(spec), key)


def kill_at_work(server: VertexStandIn, given: Submission, act: Callable[[Submission], Any] = vertex.submit) -> None:
    """Lets a process of its own do its work until the stand-in, as ordered, kills it."""
    # A server process that has imported everything forks the victims, which saves two seconds each.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["google.cloud.aiplatform_v1", "shipway.platforms.submission", "pytest"])
    process = processes.Process(target=_work, args=(server.endpoint, given, act))
    process.start()
    assert process.pid
    server.victim = process.pid
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def _work(endpoint: str, given: Submission, act: Callable[[Submission], Any]) -> None:
    os.environ["SHIPWAY_VERTEX_ENDPOINT"] = endpoint
    vertex.CONTEXT_PAUSE = 0.01
    act(given)
