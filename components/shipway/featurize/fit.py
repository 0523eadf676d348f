"""Fits the preprocessor on the training part, and turns both parts into features.

The default preprocessor streams: it looks at one raw column at a time and transforms batch by batch. A user's own
transformer is fitted in memory on the whole training part's feature columns, so its memory grows with the rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from shipway.dataset import DatasetInfo, DatasetWriter, batches, read_info, scan
from shipway.dataset.parts import BATCH_ROWS
from shipway.dataset.schema import ColumnSpec, schema_columns
from shipway.errors import InputError
from shipway.featurize.labels import LabelEncoder, fit_labels
from shipway.featurize.profile import CategoryProfile, NumberProfile, profile_category, profile_numbers
from shipway.lineage.digests import digest_json, digest_tree
from shipway.lineage.documents import Statistics
from shipway.lineage.files import atomic_folder
from shipway.lineage.project import load_object, user_code
from shipway.model.preprocessor import LABEL_COLUMN, ModelFacts, Preprocessor
from shipway.model.signature import InputColumn
from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor
from shipway.model.transformer import TransformerPreprocessor, pandas_frame
from shipway.spec import DataSection, FeaturesSection, SchemaSection

Profiles = dict[str, NumberProfile | CategoryProfile]

_SAMPLE_ROWS = 100
# A part waits in memory until it is full: 128 MB.
_PART_VALUES = 32_000_000


class Featurized(NamedTuple):
    """What featurize did.

    Attributes:
        train: The training part's features.
        validation: The validation part's features.
        features: The features' names.
        inputs: The raw columns they are made of.
        left_out: Columns that might be thought features and are not, each with the reason.
        train_dropped: Training rows without a label.
        validation_dropped: Validation rows without a label.
    """

    train: DatasetInfo
    validation: DatasetInfo
    features: list[str]
    inputs: list[str]
    left_out: dict[str, str]
    train_dropped: int
    validation_dropped: int

    def facts(self) -> dict[str, Any]:
        """Returns the facts worth showing in a report."""
        return {
            "raw_columns": len(self.inputs),
            "features": len(self.features),
            "left_out": self.left_out,
            "train_rows": self.train.rows,
            "validation_rows": self.validation.rows,
            "train_rows_without_label": self.train_dropped,
            "validation_rows_without_label": self.validation_dropped,
        }


def featurize(
    train: str | Path,
    validation: str | Path,
    *,
    train_features: str | Path,
    validation_features: str | Path,
    preprocessor: str | Path,
    statistics: str | Path,
    name: str,
    task: str,
    data: DataSection,
    schema: SchemaSection,
    features: FeaturesSection,
) -> Featurized:
    """Fits on the training part, transforms both parts, and writes features, preprocessor and statistics.

    Rows without a label are dropped and counted; they take no part in fitting.

    Args:
        train: Folder of the raw training part.
        validation: Folder of the raw validation part.
        train_features: Folder for the training part's features: a Float32 column each, and `__label__`, the class
            index as Int64, or the value as Float64 for regression.
        validation_features: The same for the validation part.
        preprocessor: Folder for the fitted preprocessor.
        statistics: File for the Statistics document of the training part.
        name: The model's name.
        task: binary, multiclass or regression.
        data: The spec's section data.
        schema: The spec's section schema.
        features: The spec's section features.

    Raises:
        InputError: A column is missing, the label does not fit the task, or a part has no rows with a label.
        UserCodeError: The user's transformer raised, or gave something that is no matrix of finite numbers.
    """
    origin = read_info(train)
    specs = schema_columns(schema.pandera)
    columns, left_out = feature_columns(specs, list(origin.columns), data, features)
    rows = scan(train).filter(pl.col(data.label).is_not_null())
    labels = fit_labels(rows.select(data.label), data.label, task, data.positive)
    labels.check(scan(validation), "validation")
    profiles = _profiles(train, columns, data.label)
    # Nulls may come where the schema allows them, or where the training part has them.
    inputs = [
        InputColumn(
            name=column.name,
            kind=column.kind,
            nullable=column.nullable or profiles[column.name].statistics.nulls > 0,
        )
        for column in columns
    ]
    facts = ModelFacts(name=name, task=task, label=data.label, classes=labels.classes)
    fitted: Preprocessor
    if features.transformer is None:
        fitted = fit_tabular(facts, inputs, profiles, features)
    else:
        fitted = fit_transformer(facts, inputs, rows, labels, features.transformer)
    with atomic_folder(preprocessor) as folder:
        fitted.save(folder)
    digest = digest_tree(preprocessor)
    train_info, train_dropped = _write_features(train, train_features, fitted, labels, digest)
    validation_info, validation_dropped = _write_features(validation, validation_features, fitted, labels, digest)
    _statistics(train, data.label, labels, profiles).write(statistics)
    return Featurized(
        train_info,
        validation_info,
        fitted.features,
        [column.name for column in inputs],
        left_out,
        train_dropped,
        validation_dropped,
    )


def feature_columns(
    specs: Mapping[str, ColumnSpec], found: Sequence[str], data: DataSection, features: FeaturesSection
) -> tuple[list[InputColumn], dict[str, str]]:
    """Chooses the raw columns that become features: the schema's, without the label, key, time and dropped ones.

    Args:
        specs: The schema's columns.
        found: The training part's columns.
        data: The spec's section data.
        features: The spec's section features.

    Returns:
        The columns in the schema's order, and those left out for their kind, each with the reason.

    Raises:
        InputError: A column that a setting names or the schema requires is missing, or nothing is left.
    """
    named = {"data.label": [data.label], "data.key": data.key, "data.time": [data.time] if data.time else []}
    for setting, names in {**named, "features.drop": features.drop}.items():
        for name in names:
            if name not in found and (name not in specs or setting != "features.drop"):
                raise InputError(f"{setting}: no column {name!r} in the data, which has {', '.join(found)}")
    excluded = {data.label, *data.key, data.time, *features.drop}
    columns: list[InputColumn] = []
    left_out: dict[str, str] = {}
    for spec in specs.values():
        if spec.name in excluded:
            continue
        if spec.name not in found:
            if spec.required:
                raise InputError(f"the training part has no column {spec.name!r}, which the schema requires")
            left_out[spec.name] = "not in the data"
        elif spec.kind == "time":
            left_out[spec.name] = "dates and times are no features by themselves"
        elif spec.kind == "other":
            left_out[spec.name] = "neither numbers, booleans nor text in the schema"
        else:
            columns.append(InputColumn(name=spec.name, kind=spec.kind, nullable=spec.nullable))
    if not columns:
        raise InputError(
            f"no feature columns are left: the schema has {', '.join(specs)}; "
            f"label, key, time and dropped ones are {', '.join(sorted(name for name in excluded if name))}"
        )
    return columns, left_out


def fit_tabular(
    facts: ModelFacts, inputs: list[InputColumn], profiles: Profiles, features: FeaturesSection
) -> TabularPreprocessor:
    """Makes the default preprocessor from what the training part looks like.

    Args:
        facts: The model.
        inputs: The raw columns.
        profiles: What the training part's columns look like, by name.
        features: The spec's section features.
    """
    numbers: list[NumberTransform] = []
    categories: list[CategoryTransform] = []
    for column in inputs:
        profile = profiles[column.name]
        if isinstance(profile, NumberProfile):
            scaled = features.scale == "standard"
            numbers.append(
                NumberTransform(
                    column=column.name,
                    impute=profile.median if features.impute == "median" else profile.mean,
                    mean=profile.mean if scaled else 0.0,
                    std=(profile.std or 1.0) if scaled else 1.0,
                    indicator=column.nullable,
                )
            )
        elif column.kind == "boolean":
            numbers.append(
                NumberTransform(column=column.name, impute=0.0, mean=0.0, std=1.0, indicator=column.nullable)
            )
        else:
            values = profile.values[: features.max_categories]
            categories.append(CategoryTransform(column=column.name, values=values, missing=column.nullable))
    return TabularPreprocessor(facts, inputs, numbers, categories)


def fit_transformer(
    facts: ModelFacts, inputs: list[InputColumn], rows: pl.LazyFrame, labels: LabelEncoder, target: str
) -> TransformerPreprocessor:
    """Fits the user's transformer, in memory.

    Its memory grows with the rows: the whole training part's feature columns are one pandas DataFrame. It gets the
    encoded labels as `y` if its `fit` takes them, and NumPy's global seed is fixed, so that fitting twice is the same.

    Args:
        facts: The model.
        inputs: The raw columns.
        rows: The training part's rows that have a label.
        labels: Encodes the label.
        target: FILE.py:FUNCTION returning the unfitted transformer.

    Raises:
        InputError: The function or its file does not exist, or returns no transformer.
        UserCodeError: The user's code raised.
    """
    where = f"features.transformer {target}"
    build = load_object(target, "features.transformer")
    with user_code(where):
        transformer = build()
    if not (hasattr(transformer, "fit") and hasattr(transformer, "transform")):
        raise InputError(
            f"{where}: must return a scikit-learn transformer with fit and transform, "
            f"found {type(transformer).__name__}"
        )
    names = [*(column.name for column in inputs), facts.label]
    # In an order of their own, so that the order of the rows does not show in what is fitted.
    frame = rows.select(names).sort(names).collect()
    table = pandas_frame(inputs, frame)
    target_values = labels.encode(frame[facts.label]).to_numpy()
    with user_code(where):
        # Transformers without a random_state draw from it.
        np.random.seed(0)
        if len(inspect.signature(transformer.fit).parameters) > 1:
            transformer.fit(table, target_values)
        else:
            transformer.fit(table)
    return TransformerPreprocessor.fitted(facts, inputs, transformer, target, frame.head(_SAMPLE_ROWS))


def check_features(matrix: npt.NDArray[np.float32], features: Sequence[str], rows: int) -> None:
    """Checks a preprocessor's output against its own feature schema: one finite float32 a row and feature.

    Raises:
        InputError: It is something else.
    """
    if matrix.shape != (rows, len(features)) or matrix.dtype != np.float32:
        raise InputError(
            f"the preprocessor gave {matrix.dtype} of shape {matrix.shape} for {rows} rows, "
            f"expected float32 of shape {(rows, len(features))}"
        )
    # A sum is finite unless a value is not, or all are huge; only then each is looked at.
    if not np.isfinite(matrix.sum(dtype=np.float64)):
        counts = np.count_nonzero(~np.isfinite(matrix), axis=0)
        faults = [f"{name!r} ({count})" for name, count in zip(features, counts, strict=True) if count]
        if faults:
            raise InputError(f"features that are NaN or infinite (rows): {', '.join(faults)}")


def _profiles(train: str | Path, columns: Sequence[InputColumn], label: str) -> Profiles:
    profiles: Profiles = {}
    profiles.update(profile_numbers(train, [column for column in columns if column.kind == "number"], label))
    for column in columns:
        if column.kind != "number":
            profiles[column.name] = profile_category(train, column.name, label, column.kind == "boolean")
    return {column.name: profiles[column.name] for column in columns}


def _statistics(train: str | Path, label: str, labels: LabelEncoder, profiles: Profiles) -> Statistics:
    described: NumberProfile | CategoryProfile
    if labels.task == "regression":
        described = profile_numbers(train, [InputColumn(name=label, kind="number", nullable=False)], label)[label]
    else:
        described = profile_category(train, label, label)
    return Statistics(
        rows=labels.rows,
        label=described.statistics,
        columns={name: profile.statistics for name, profile in profiles.items()},
    )


def _write_features(
    part: str | Path, folder: str | Path, preprocessor: Preprocessor, labels: LabelEncoder, digest: str
) -> tuple[DatasetInfo, int]:
    """Transforms a part batch by batch; returns the manifest and the number of rows without a label."""
    origin = read_info(part)
    wanted = list(dict.fromkeys([*(column.name for column in preprocessor.inputs), labels.column]))
    missing = [name for name in wanted if name not in origin.columns]
    if missing:
        raise InputError(f"{part}: no columns {', '.join(missing)}; it has {', '.join(origin.columns)}")
    kept = 0
    # The features follow from the rows and the preprocessor, and hundreds of columns take long to hash.
    version = digest_json([origin.version, digest])
    part_rows = max(BATCH_ROWS, _PART_VALUES // len(preprocessor.features))
    with DatasetWriter(folder, sources=origin.sources, part_rows=part_rows, version=version) as writer:
        for batch in batches(part, columns=wanted):
            frame = batch.filter(pl.col(labels.column).is_not_null())
            kept += frame.height
            matrix = preprocessor.transform(frame)
            check_features(matrix, preprocessor.features, frame.height)
            columns = [pl.Series(name, matrix[:, position]) for position, name in enumerate(preprocessor.features)]
            writer.write(pl.DataFrame([*columns, labels.encode(frame[labels.column]).alias(LABEL_COLUMN)]))
    if writer.info is None:
        raise AssertionError("the writer's block ended well")
    return writer.info, origin.rows - kept
