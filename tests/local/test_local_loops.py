"""Steps that run side by side in a loop: each pass has its own log and record, and they count as one step."""

import builtins
import io
import logging
import sys
import warnings
from pathlib import Path
from typing import List  # noqa: UP035 - kfp reads a list of text only in this form

from kfp import compiler, components, dsl, local
from kfp.dsl import Artifact, Input, Output

from shipway.component import component
from shipway.lineage.steps import StepRecord
from shipway.platforms.display import Display
from shipway.platforms.events import EventStream
from shipway.platforms.local import _captured, step_names
from shipway.platforms.local_watch import Watch, _joined
from shipway.report.summary import StepState, read_steps


@component()
def share(part: str, out: Output[Artifact], folder: str):
    import time
    from pathlib import Path

    from shipway.errors import RejectedError
    from shipway.lineage.steps import step

    with step("share", out.path) as record:
        print(f"this is {part}")
        (Path(folder) / f"begun-{part[0]}").touch()
        # Until another is under way, so that two run at the same time.
        deadline = time.monotonic() + 20
        while len(list(Path(folder).glob("begun-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        record.show(rows=int(part[0]) + 1, model="m", part=part)
        if part.endswith("bad"):
            raise RejectedError(f"{part} is bad")
        Path(out.path).write_text(part)


@component()
def whole(parts: Input[List[Artifact]], out: Output[Artifact]):  # noqa: UP006 - as above
    from pathlib import Path

    from shipway.lineage.steps import step

    with step("whole", out.path) as record:
        record.show(parts=", ".join(Path(part.path).read_text() for part in parts))
        Path(out.path).touch()


@component()
def report(status: dsl.PipelineTaskFinalStatus):
    print(status.state)


@dsl.pipeline(name="loop")
def loop(parts: List[str], folder: str):  # noqa: UP006 - as above
    with dsl.ExitHandler(report().set_caching_options(False)):
        with dsl.ParallelFor(items=parts, name="shares") as part:
            made = share(part=part, folder=folder).set_caching_options(False)
        whole(parts=dsl.Collected(made.outputs["out"]))


def run(folder: Path, *parts: str) -> tuple[dict[str, StepState], str, str]:
    """Runs the loop; returns the steps, what was shown and the whole log."""
    (folder / "marks").mkdir()
    compiler.Compiler().compile(loop, str(folder / "loop.yaml"))
    loaded = components.load_component_from_file(str(folder / "loop.yaml"))
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "root"), raise_on_error=True)
    shown, log = io.StringIO(), io.StringIO()
    watch = Watch(folder, folder / "root", folder / "cache", Display(shown))
    with warnings.catch_warnings(), _captured(EventStream(watch, log)):
        try:
            loaded(parts=list(parts), folder=str(folder / "marks"))
        except RuntimeError:
            assert watch.failed
    watch.finish(step_names(loaded_document(folder)))
    return {state.name: state for state in watch.steps}, shown.getvalue(), log.getvalue()


def loaded_document(folder: Path) -> dict:
    import yaml

    return yaml.safe_load((folder / "loop.yaml").read_text())


def test_the_passes_of_a_step_are_one_step_with_a_log_each(tmp_path: Path) -> None:
    before = (builtins.print, list(logging.getLogger().handlers), sys.stdout)
    steps, shown, _ = run(tmp_path, "0/3", "1/3", "2/3")
    assert (builtins.print, list(logging.getLogger().handlers), sys.stdout) == before
    assert list(steps) == ["share", "whole"]
    assert {name: state.status for name, state in steps.items()} == {"share": "succeeded", "whole": "succeeded"}
    record = steps["share"].record
    assert record is not None
    # Counts are added up, what all agree on is kept, the rest differs by pass.
    assert record.facts == {"rows": 6, "model": "m"}
    logs = [path.read_text() for path in sorted((tmp_path / "logs").glob("share*.log"))]
    assert sorted(line.strip() for text in logs for line in text.splitlines() if "this is" in line) == [
        "this is 0/3",
        "this is 1/3",
        "this is 2/3",
    ]
    assert all(text.count("this is") == 1 for text in logs)
    assert shown.count("✓ share") == 3
    assert steps["whole"].record is not None
    assert steps["whole"].record.facts["parts"] == "0/3, 1/3, 2/3"
    # What another process sees of it is the same.
    assert [state.name for state in read_steps(tmp_path)] == ["share", "whole"]


def test_a_step_fails_with_any_of_its_passes_and_says_which(tmp_path: Path) -> None:
    steps, shown, _ = run(tmp_path, "0/2", "1/bad")
    failed = steps["share"]
    assert failed.status == "failed"
    assert failed.record is not None
    assert (failed.record.kind, failed.record.reason) == ("rejected", ["1/bad is bad"])
    assert "this is 1/bad" in (tmp_path / failed.log).read_text()
    assert steps["whole"].status == "skipped"
    assert (shown.count("✓ share"), shown.count("✗ share")) == (1, 1)


def test_each_reason_is_told_once() -> None:
    said = (["a is bad"], ["b is bad"], ["a is bad"])
    states = [
        StepState(name="share", status="failed", record=StepRecord(name="share", status="failed", reason=lines))
        for lines in said
    ]
    record = _joined(states).record
    assert record is not None
    assert record.reason == ["a is bad", "b is bad"]
