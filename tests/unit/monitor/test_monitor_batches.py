"""What is gathered of batch predictions, as batch inference leaves them."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from monitor_world import DATA, UNTIL, World, parcels

from shipway.dataset import DatasetWriter
from shipway.errors import InputError
from shipway.lineage.batches import BATCH_FILE, PROFILE_FILE, BatchInfo
from shipway.monitor.observation import LABELLED, SAMPLE, iso, moment
from shipway.predict.gather import gather_shares
from shipway.predict.stage import predict_share
from shipway.spec import EvaluateSection, SchemaSection, dump_section
from shipway.spec.watch import InferenceSection
from shipway.validate.screen import screen_rows


class Output:
    """Batches of predictions, made by the steps of batch inference."""

    def __init__(self, world: World, state: Path) -> None:
        self.world = world
        self.folder = world.path / "output"
        self._state = state

    def add(self, rows: pl.DataFrame, name: str, began: float) -> Path:
        """Scores rows, and returns the batch's folder under a name and a time of one's own."""
        work = self.world.path / name
        with DatasetWriter(work / "rows", part_rows=60) as writer:
            writer.write(rows.drop("lost"))
        inference = dump_section(InferenceSection(output=str(work / "out"), columns=["depot"]))
        data, release = dump_section(DATA), self.world.path / "release.json"
        screened = screen_rows(
            work / "rows", work / "aside", dump_section(SchemaSection(pandera="schema.yaml")), data, inference
        )
        screened.write(work / "findings.json", work / "screen.html")
        share = work / "share", work / "share.json"
        predict_share(work / "rows", work / "aside", release, *share, inference, data, "0/1", "run-1")
        settings = dump_section(EvaluateSection(slices=[]))
        outputs = work / "predictions", work / "profile.json", work / "report.html"
        gather_shares(release, work / "aside", [str(share[0])], [str(share[1])], *outputs, inference, settings, data)
        (made,) = (work / "out").iterdir()
        target = self.folder / name
        self.folder.mkdir(exist_ok=True)
        shutil.move(made, target)
        info = BatchInfo.model_validate_json((target / BATCH_FILE).read_text())
        info.model_copy(update={"began": iso(began)}).write(target / BATCH_FILE)
        return target


@pytest.fixture
def output(world: World, registered: Any, monkeypatch: pytest.MonkeyPatch) -> Output:
    monkeypatch.setenv("SHIPWAY_PROJECT", str(registered[0].parent))
    return Output(world, registered[0])


HOURS = {"old": 30, "first": 20, "second": 3}


def test_the_batches_of_a_window_are_added_up_and_joined_with_labels(world: World, output: Output) -> None:
    now = moment(UNTIL)
    rows = {name: parcels(100, 40 + number) for number, name in enumerate(HOURS)}
    for name, hours in HOURS.items():
        output.add(rows[name], name, now - hours * 3600)
    (output.folder / "unfinished").mkdir()
    where = world.labels(pl.concat([rows["old"], rows["second"].head(40)]))
    seen = world.observe(
        predictions=str(output.folder), labels={"uri": where, "late": "2d"}, slices=["depot", "express"]
    )
    assert (seen.source, seen.rows, seen.service) == ("batch", 200, None)
    assert (seen.labels.predicted, seen.labels.labelled) == (300, 140)
    assert seen.notes == ["no slices by express: it is not among the columns of the predictions"]
    observation = world.path / "observation"
    joined = pl.read_parquet(observation / LABELLED)
    assert joined["slice.depot"].null_count() == 0
    expected = world.package.predict(pl.concat([rows["old"], rows["second"].head(40)]))[:, 1]
    assert sorted(joined["outputs"].list.get(1)) == pytest.approx(sorted(expected), abs=1e-6)
    assert not (observation / SAMPLE).exists()
    check = world.monitor(slices=["depot"])
    assert check.findings.source == "batch"
    assert check.findings.performance["roc_auc"].value is not None
    assert "rebuilt from the counts of the batch" in world.page("drift.html")


def test_one_batch_is_looked_at_whenever_it_was_made(world: World, output: Output) -> None:
    batch = output.add(parcels(80, 40), "one", moment(UNTIL) - 90 * 86400)
    assert world.observe(predictions=str(batch)).rows == 80
    nothing = world.observe(predictions=str(output.folder))
    assert nothing.rows == 0
    assert "no batch of this version was begun in the window" in nothing.notes[0]
    other = {**json.loads((batch / BATCH_FILE).read_text()), "digest": "sha256:" + "1" * 64, "version": "7"}
    (batch / BATCH_FILE).write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"predictions of version 7, .* is watched; name that version"):
        world.observe(predictions=str(batch))
    assert world.observe(predictions=str(output.folder)).rows == 0


def test_batches_that_cannot_be_read_are_told_with_their_place(world: World, output: Output) -> None:
    batch = output.add(parcels(80, 40), "one", moment(UNTIL) - 3600)
    where = world.labels(parcels(80, 40), express=pl.lit(value=True))
    with pytest.raises(InputError, match=r"have no column 'express'; they have row, parcel, depot"):
        world.observe(predictions=str(batch), labels={"uri": where, "key": ["express"]})
    with pytest.raises(InputError, match=r"no such folder \(monitor.predictions\)"):
        world.observe(predictions=str(world.path / "nowhere"))
    whole = (batch / PROFILE_FILE).read_bytes()
    (batch / PROFILE_FILE).write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"profile\.json: no profile of a batch"):
        world.observe(predictions=str(batch))
    (batch / PROFILE_FILE).unlink()
    with pytest.raises(InputError, match=r"profile\.json: missing"):
        world.observe(predictions=str(batch))
    (batch / PROFILE_FILE).write_bytes(whole)
    (part,) = batch.glob("part-*1.parquet")
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(InputError, match=part.name):
        world.observe(predictions=str(batch), labels={"uri": where})
    (batch / BATCH_FILE).write_text("{")
    with pytest.raises(InputError, match=r"batch\.json: no description of a batch"):
        world.observe(predictions=str(batch))
