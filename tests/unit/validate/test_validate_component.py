"""The components: validation never fails for a breach, and always writes its report; admission ends the run."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
from kfp.dsl import HTML, Artifact, Dataset

from shipway.dataset import DatasetWriter
from shipway.lineage.steps import StepRecord, read_record
from shipway.spec import SchemaSection, dump_section
from shipway.validate.component import admit, validate


@pytest.mark.parametrize("values", [[1, 2], [-1, None]])
def test_the_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], values: list[int | None]
) -> None:
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))
    (tmp_path / "schema.yaml").write_text("columns: {a: {dtype: int64, ge: 0}}")
    with DatasetWriter(tmp_path / "rows") as writer:
        writer.write(pl.DataFrame({"a": values}))
    findings = Artifact(name="findings", uri=str(tmp_path / "out" / "findings"))
    report = HTML(name="report", uri=str(tmp_path / "out" / "report"))
    verdict = validate.python_func(
        dataset=Dataset(name="rows", uri=str(tmp_path / "rows")),
        findings=findings,
        report=report,
        data_schema=dump_section(SchemaSection(pandera="schema.yaml")),
    )
    record = read_record(tmp_path / "out")
    assert isinstance(record, StepRecord)
    assert Path(report.path).read_text().startswith("<!doctype html>")
    assert record.reports == {"Validation": report.path}
    # A step without artifact outputs finds its folder as KFP's executor names it.
    executor_input = {"outputs": {"outputFile": str(tmp_path / "admit" / "executor_output.json")}}
    monkeypatch.setattr(sys, "argv", ["executor", "--executor_input", json.dumps(executor_input)])
    if values == [1, 2]:
        assert (verdict, record.status) == ("accepted", "succeeded")
        admit.python_func(findings=findings, verdict=verdict)
        return
    assert (verdict, record.status) == ("rejected", "rejected")
    breaches = [
        "column 'a': 1 row null, expected none",
        "column 'a': greater_than_or_equal_to(0) fails in 1 row, as -1",
    ]
    assert record.reason == breaches
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        admit.python_func(findings=findings, verdict=verdict)
    assert ended.value.code == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["admit: validation rejected the data: 2 breaches", *(f"- {breach}" for breach in breaches)]
    assert read_record(tmp_path / "out") == record
    ending = read_record(tmp_path / "admit")
    assert ending is not None
    assert (ending.status, ending.kind, len(ending.reason)) == ("failed", "rejected", 3)
