"""The penguins example: its data, its schema in YAML, and its own features from training to ONNX."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from shipway.dataset import DatasetWriter, read_info
from shipway.dataset.schema import load_schema, schema_columns
from shipway.errors import InputError
from shipway.ingest.read import ingest
from shipway.lineage.project import PROJECT_VARIABLE, import_file, load_object
from shipway.model.signature import InputColumn
from shipway.model.transformer import pandas_frame
from shipway.spec import HashSplit, ModelSpec, load_spec
from shipway.validate.check import validate

PROJECT = Path(__file__).parents[3] / "pipelines/examples/penguins"


@pytest.fixture(scope="module")
def loader() -> ModuleType:
    return import_file(PROJECT / "loader.py", "examples_penguins_loader")


@pytest.fixture(scope="module")
def penguins(loader: ModuleType) -> pl.DataFrame:
    frame: pl.DataFrame = loader.load()
    return frame


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(PROJECT_VARIABLE, str(PROJECT))
    with config_context(validation_depth=ValidationDepth.SCHEMA_AND_DATA):
        yield


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec(PROJECT / "shipway.yaml")


@pytest.fixture
def inputs(spec: ModelSpec) -> list[InputColumn]:
    return [
        InputColumn(name=name, kind=column.kind, nullable=column.nullable)
        for name, column in schema_columns("schema.yaml").items()
        if name not in spec.excluded_columns() and column.kind in ("number", "boolean", "category")
    ]


def test_the_loader_gives_all_penguins_with_their_gaps(penguins: pl.DataFrame) -> None:
    assert penguins.shape == (344, 8)
    assert dict(penguins["species"].value_counts().iter_rows()) == {"Adelie": 152, "Gentoo": 124, "Chinstrap": 68}
    gaps = {name: count for name, count in penguins.null_count().row(0, named=True).items() if count}
    assert gaps == {"bill_length_mm": 2, "bill_depth_mm": 2, "flipper_length_mm": 2, "body_mass_g": 2, "sex": 11}


def test_a_missing_package_is_told_with_the_extra_to_install(
    loader: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loader.fingerprint().startswith("palmerpenguins==")
    monkeypatch.setattr(loader, "PACKAGE", "penguins_that_are_not_there")
    for function in (loader.load, loader.fingerprint):
        with pytest.raises(InputError, match="extra `examples`"):
            function()


def test_the_schema_accepts_all_and_bounds_the_nulls(penguins: pl.DataFrame, spec: ModelSpec) -> None:
    load_schema("schema.yaml").validate(penguins, lazy=True)
    nullable = {name for name, column in schema_columns("schema.yaml").items() if column.nullable}
    assert nullable == set(spec.data_schema.nulls)
    for column, share in spec.data_schema.nulls.items():
        assert penguins[column].null_count() <= share * penguins.height


@pytest.mark.parametrize("gap", ["NA", ""])
def test_a_csv_of_the_raw_file_passes_the_same_schema(
    penguins: pl.DataFrame, spec: ModelSpec, gap: str, tmp_path: Path
) -> None:
    penguins.write_csv(tmp_path / "penguins.csv", null_value=gap)
    info = ingest(spec.data, str(tmp_path / "penguins.csv"), tmp_path / "dataset")
    with DatasetWriter(tmp_path / "loaded") as writer:
        writer.write(penguins)
    assert info.version == read_info(tmp_path / "loaded").version
    findings = validate(tmp_path / "dataset", spec.data_schema).findings
    assert findings.breaches == []
    assert findings.verdict == "accepted"


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (pl.lit("Emperor").alias("species"), "species"),
        (pl.col("body_mass_g") // 1000, "body_mass_g"),
        (pl.col("bill_length_mm") * 10, "bill_length_mm"),
        (pl.lit(None, pl.String).alias("island"), "island"),
        (pl.col("sex").str.to_uppercase(), "sex"),
        (pl.lit(1).alias("nest"), "nest"),
    ],
)
def test_the_schema_refuses_a_broken_table(penguins: pl.DataFrame, change: pl.Expr, column: str) -> None:
    with pytest.raises(SchemaErrors) as caught:
        load_schema("schema.yaml").validate(penguins.with_columns(change), lazy=True)
    cases = caught.value.failure_cases
    assert column in {*cases["column"], *cases["failure_case"]}


def test_the_hash_spreads_no_bird_over_two_parts(penguins: pl.DataFrame, spec: ModelSpec) -> None:
    split = spec.split
    assert isinstance(split, HashSplit)
    measured = penguins.drop_nulls(split.columns)
    assert measured.select(split.columns).n_unique() == measured.height == 342


def test_the_features_are_finite_for_gaps_and_for_values_never_seen(
    penguins: pl.DataFrame, spec: ModelSpec, inputs: list[InputColumn]
) -> None:
    assert spec.features.transformer is not None
    fitted = load_object(spec.features.transformer, "features.transformer")().fit(pandas_frame(inputs, penguins))
    empty = pl.DataFrame(
        [pl.Series(column.name, [None], dtype=penguins.schema[column.name]) for column in inputs if column.nullable]
    ).with_columns(island=pl.lit("Atlantis"))
    rows = pl.concat([penguins.select(empty.columns), empty, empty.with_columns(sex=pl.lit("NA"))])
    features = fitted.transform(pandas_frame(inputs, rows))
    assert features.shape == (346, 9)
    assert np.isfinite(features).all()
    assert (features[-2:, 4:] == 0).all()
    assert np.abs(features[:-2, :4].std(axis=0) - 1).max() < 0.01


def test_year_and_species_are_no_features(inputs: list[InputColumn]) -> None:
    assert {column.name for column in inputs}.isdisjoint({"species", "year"})
    assert len(inputs) == 6
