"""The component: parameters in, dataset and record out; a fault ends it with its message and exit code."""

from pathlib import Path

import pytest
from kfp.dsl import Dataset

from shipway.dataset import read_info
from shipway.ingest.component import ingest
from shipway.lineage.steps import read_record
from shipway.spec import DataSection, dump_section


def test_the_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))
    (tmp_path / "a.csv").write_text("y,x\n1,2\n")
    dataset = Dataset(name="dataset", uri=str(tmp_path / "out" / "dataset"))
    version = ingest.python_func(dataset=dataset, data=dump_section(DataSection(uri="a.csv", label="y"), "code"))
    assert version == read_info(dataset.path).version == dataset.metadata["data_version"]
    record = read_record(tmp_path / "out")
    assert record is not None
    assert (record.status, record.facts["rows"], record.facts["data_version"]) == ("succeeded", 1, version)


def test_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))
    dataset = Dataset(name="dataset", uri=str(tmp_path / "out" / "dataset"))
    with pytest.raises(SystemExit) as ended:
        ingest.python_func(dataset=dataset, data=dump_section(DataSection(uri="a.csv", label="y")))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"ingest: {tmp_path}/a.csv: no such file\n"
    record = read_record(tmp_path / "out")
    assert record is not None
    assert (record.status, record.kind, record.reason) == ("failed", "input", [f"{tmp_path}/a.csv: no such file"])
