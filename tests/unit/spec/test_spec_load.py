"""A spec is read whole or refused with every fault, each with line, path, what was found and what would be right."""

import json
from pathlib import Path

import pytest
import yaml

from shipway.errors import InputError, SpecError
from shipway.spec import (
    HashSplit,
    SklearnTrain,
    TimeSplit,
    TorchTrain,
    dump_section,
    load_gates,
    load_section,
    load_spec,
    load_split,
    load_train,
)
from shipway.spec.load import json_schema
from shipway.spec.model import DataSection

GOOD = """\
name: flights
task: binary
data:
  uri: data/*.parquet
  label: late
  time: departs
schema:
  pandera: schema.yaml
split:
  by: time
  until: 2013-11-01
  validation: 1mo
  test: 1mo
train:
  trainer: torch
  lr: 0.01
evaluate:
  slices: [origin]
gates:
  - {metric: roc_auc, min: 0.84}
  - {metric: roc_auc, slice: origin, max_gap: 0.1}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "shipway.yaml"
    path.write_text(GOOD)
    return path


def faults(path: Path, *settings: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(path, settings)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_a_good_spec_is_read_with_its_defaults(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    assert isinstance(spec.train, TorchTrain)
    assert isinstance(spec.split, TimeSplit)
    assert (spec.train.lr, spec.train.epochs, spec.split.until) == (0.01, 10, "2013-11-01")
    assert spec.features.impute == "median"
    assert spec.excluded_columns() == ["late", "departs"]


def test_without_a_train_section_sklearn_trains(spec_file: Path) -> None:
    values = yaml.safe_load(GOOD)
    del values["train"]
    spec_file.write_text(yaml.safe_dump(values))
    assert isinstance(load_spec(spec_file).train, SklearnTrain)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: flights", "name: Flights", ":1: name: expected text matching pattern"),
        ("  label: late", "  label: late\n  labl: x", ":6: data.labl: unknown key; did you mean 'label'?"),
        ("  lr: 0.01", "  lr: fast", ":16: train.lr: expected a valid number, found 'fast' (str)"),
        ("  lr: 0.01", "  epoch: 3", ":16: train.epoch: unknown key; did you mean 'epochs'?"),
        ("  trainer: torch", "  trainer: xgboost", "train: "),
        ("  trainer: torch\n", "", "train: needs 'trainer'"),
        ("task: binary\n", "", "task: required, and missing"),
        ("  validation: 1mo", "  validation: a month", ":12: split.validation: expected text matching pattern"),
        ("  until: 2013-11-01", "  until: someday", "split.until: expected an ISO date, time or 'latest'"),
        ("  time: departs\n", "", ":8: split.column: a split by time needs it, or data.time"),
        (
            "metric: roc_auc, min",
            "metric: rocauc, min",
            "gates.0.metric: no metric 'rocauc' for binary tasks; there are",
        ),
        ("slice: origin, max_gap", "slice: dest, max_gap", "gates.1.slice: 'dest' is not one of evaluate.slices"),
        ("roc_auc, min: 0.84", "roc_auc", "gates.0: a rule needs min, max, champion_margin, or slice with max_gap"),
        ("  uri: data/*.parquet", "  uri: a\n  loader: b.py:c", "data: give either uri or loader"),
        ("task: binary", "task: binary\ntask: regression", ":3: task: given twice"),
        ("  label: late", "  label: [late", "not YAML"),
    ],
)
def test_each_fault_is_named_with_its_place(spec_file: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    spec_file.write_text(GOOD.replace(old, new))
    lines = faults(spec_file)
    assert any(expected in line for line in lines), lines
    assert all(line.startswith(str(spec_file)) for line in lines), lines


def test_all_faults_are_told_at_once(spec_file: Path) -> None:
    spec_file.write_text(GOOD.replace("flights", "F L").replace("0.01", "fast").replace("  label: late", "  label: 3"))
    assert len(faults(spec_file)) == 3


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such spec file"):
        load_spec(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="cannot read the spec"):
        load_spec(tmp_path)
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(SpecError, match="expected a mapping of sections"):
        load_spec(tmp_path / "list.yaml")


def test_settings_override_and_are_checked_like_the_file(spec_file: Path) -> None:
    spec = load_spec(spec_file, ["train.lr=1e-3", "split.until=2013-12-01", "gates.0.min=0.99", "train.hidden=[8]"])
    assert isinstance(spec.train, TorchTrain)
    assert isinstance(spec.split, TimeSplit)
    assert (spec.train.lr, spec.train.hidden) == (0.001, [8])
    assert (spec.split.until, spec.gates[0].min) == ("2013-12-01", 0.99)
    assert "expected SECTION.KEY=VALUE" in faults(spec_file, "train.lr")[0]
    assert "train.lrr: unknown key; did you mean 'lr'?" in faults(spec_file, "train.lrr=1")[0]
    assert "gates has 2 entries, no '7'" in faults(spec_file, "gates.7.min=1")[0]
    assert "it has no 'x'" in faults(spec_file, "name.x=1")[0]


def test_sections_survive_the_way_through_a_pipeline_parameter(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    assert load_section(DataSection, dump_section(spec.data, "sha256:1")) == spec.data
    assert load_split(dump_section(spec.split)) == spec.split
    assert load_train(dump_section(spec.train)) == spec.train
    assert load_gates(dump_section(spec.gates)) == spec.gates
    assert json.loads(dump_section(spec.data, "sha256:1"))["code"] == "sha256:1"


def test_hash_split_must_be_whole() -> None:
    assert HashSplit(by="hash", columns=["id"], train=0.8, validation=0.1, test=0.1).test == 0.1
    with pytest.raises(ValueError, match=r"must be 1, found 1\.1"):
        HashSplit(by="hash", columns=["id"], train=0.8, validation=0.2, test=0.1)


def test_the_json_schema_knows_the_sections() -> None:
    schema = json_schema()
    assert {"name", "task", "data", "schema", "split", "gates"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
