"""The components as KFP calls them, with a real registry: resolve, screen, predict in two shares, gather."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp.dsl import HTML, Artifact, Dataset
from predict_batches import DATA, Batch, rows, section, write

from shipway.lineage.documents import Blessing, Release, read_document
from shipway.lineage.steps import read_record
from shipway.model.promotion import RegistryLedger
from shipway.model.registry import publish
from shipway.predict.component import gather, predict, resolve
from shipway.validate.component import screen


class Steps:
    """The components with their artifacts in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Any] = {}

    def out(self, kind: type[Artifact], name: str) -> Any:
        """Returns an output artifact in a folder of its own, and remembers it."""
        self.made[name] = kind(name=name, uri=str(self.folder / name / "artifact"))
        return self.made[name]

    def screen(self, most: float = 0.0) -> None:
        """Screens the rows."""
        screen.python_func(
            dataset=self.made["rows"],
            quarantine=self.out(Dataset, "quarantine"),
            findings=self.out(Artifact, "findings"),
            report=self.out(HTML, "screened"),
            data_schema=section({"pandera": "schema.yaml"}),
            data=section(DATA),
            inference=section({"max_quarantine": most}),
        )


@pytest.mark.slow
def test_the_components(
    make_batch: Callable[..., Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    package = make_batch().package
    steps = Steps(tmp_path / "run")

    def resolved(version: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            resolve.python_func(release=steps.out(Artifact, "release"), name="flights", version=version)
        return int(str(ended.value.code)), capsys.readouterr().err

    code, said = resolved("champion")
    assert (code, said.startswith("resolve: no model 'flights'")) == (2, True)
    blessing = Blessing(decision="blessed", model_digest=package.digest, evaluation_digest="sha256:0")
    publish("flights", package.path, {}, blessing=blessing)
    code, said = resolved("champion")
    assert (code, said.count("\n")) == (2, 1)
    assert "has no version or alias 'champion'; its versions: 1; its aliases: staging -> 1" in said
    assert resolve.python_func(release=steps.out(Artifact, "release"), name="flights", version="staging") == "1"
    release = read_document(Release, steps.made["release"].path)
    assert (release.version, release.digest, release.blessing) == ("1", package.digest, blessing)

    bad = rows(1100).with_columns(distance=pl.when(pl.col("id") == 1003).then(50.0).otherwise("distance"))
    write(Path(steps.out(Dataset, "rows").path), bad)
    with pytest.raises(SystemExit) as ended:
        steps.screen()
    assert ended.value.code == 3
    refused = read_record(steps.folder / "screened")
    assert refused is not None
    assert (refused.status, refused.kind, refused.facts["quarantined"]) == ("failed", "rejected", 1)
    assert refused.reason[1] == "- 1 of 1,100 rows fail validation (0.09%); inference.max_quarantine allows 0.00%"
    assert "rejected" in Path(steps.made["screened"].path).read_text()
    steps.screen(0.01)

    inputs = {"release": steps.made["release"], "quarantine": steps.made["quarantine"]}
    sections = {"inference": section({"max_quarantine": 0.01}), "data": section(DATA)}
    parts, profiles = [], []
    for partition in ("0/2", "1/2"):
        parts.append(steps.out(Dataset, f"share-{partition[0]}"))
        profiles.append(steps.out(Artifact, f"profile-{partition[0]}"))
        outputs = {"predictions": parts[-1], "profile": profiles[-1]}
        predict.python_func(
            dataset=steps.made["rows"], **inputs, **outputs, **sections, partition=partition, run_id="run-1"
        )
        assert parts[-1].metadata["batch_run_id"] == "run-1"
    gather.python_func(
        **inputs,
        parts=parts,
        profiles=profiles,
        predictions=steps.out(Dataset, "predictions"),
        profile=steps.out(Artifact, "profile"),
        report=steps.out(HTML, "report"),
        evaluate=section({"slices": ["carrier"]}),
        **sections,
    )
    assert steps.made["predictions"].metadata["predicted"] == 1099
    record = read_record(steps.folder / "report")
    assert record is not None
    assert record.reports == {"Batch inference": steps.made["report"].path}
    page = Path(steps.made["report"].path).read_text()
    assert "1,099 of 1,100 rows scored by flights version 1" in page
    # Nobody has summed the predictions by a slice of `evaluate`; its rows are counted all the same.
    assert "Slices" in page

    RegistryLedger().rolled_back(release, "it was late", mark=True, stable_version="")
    code, said = resolved("1")
    assert (code, "was rolled back on" in said) == (3, True)
