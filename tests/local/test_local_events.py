"""What kfp's local runner says becomes events: a new kfp that changes its words must fail here."""

import io
import warnings
from pathlib import Path

import pytest
from kfp import compiler, components, dsl, local

from shipway.component import component
from shipway.platforms.events import Event, EventStream
from shipway.platforms.local import _captured


@component()
def produce(word: str, out: dsl.Output[dsl.Artifact]) -> str:
    from pathlib import Path

    print(f"producing {word}")
    Path(out.path).write_text(word)
    return word


@component()
def consume(word: str):
    if word == "bad":
        raise SystemExit(3)


@component()
def last(status: dsl.PipelineTaskFinalStatus):
    print(f"ended {status.state}")


@dsl.pipeline(name="events")
def pipeline(word: str, wanted: str = "good"):
    ending = last().set_caching_options(False)
    with dsl.ExitHandler(ending):
        made = produce(word=word)
        with dsl.If(made.outputs["Output"] == wanted):
            consume(word=made.outputs["Output"])


@pytest.fixture
def run(tmp_path: Path):
    source = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(source))
    loaded = components.load_component_from_file(str(source))

    def run(**arguments: str) -> list[Event]:
        events: list[Event] = []
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(tmp_path / "root"),
            enable_caching=True,
            cache_root=str(tmp_path / "cache"),
        )
        with warnings.catch_warnings(), _captured(EventStream(events.append, io.StringIO())):
            try:
                loaded(**arguments)
            except RuntimeError as error:
                events.append(Event("raised", "", str(error)))
        return events

    return run


def kinds(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.kind, event.task) for event in events if event.kind != "line"]


def test_steps_cache_conditions_and_failures_are_all_seen(run) -> None:
    first = run(word="good")
    assert kinds(first) == [
        ("started", "produce"),
        ("succeeded", "produce"),
        ("started", "consume"),
        ("succeeded", "consume"),
        ("started", "last"),
        ("succeeded", "last"),
    ]
    assert Event("line", "produce", "producing good") in first
    assert any(event.kind == "line" and event.detail == "ended SUCCEEDED" for event in first)
    second = run(word="good")
    assert kinds(second)[:2] == [("cached", "produce"), ("cached", "consume")]
    assert len(second[0].detail) == 12
    unmet = run(word="other")
    assert any(event.kind == "skipped" and event.task.startswith("condition") for event in unmet)
    assert ("started", "consume") not in kinds(unmet)
    failed = run(word="bad", wanted="bad")
    assert ("failed", "consume") in kinds(failed)
    assert ("succeeded", "last") in kinds(failed)
    assert failed[-1].kind == "raised"
    assert any(event.kind == "line" and event.detail == "ended FAILED" for event in failed)
