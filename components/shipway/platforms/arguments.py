"""From a spec to the parameters of each pipeline."""

import difflib
from pathlib import Path

from shipway.errors import SpecError
from shipway.lineage.digests import digest_file, digest_json
from shipway.lineage.project import import_digest, project_file
from shipway.spec import ColumnSplit, HashSplit, ModelSpec, TimeSplit, TorchTrain, dump_section

# A pipeline's parameter: text, mostly a section as JSON, or what a `ParallelFor` goes over.
Argument = str | list[str]


def model_arguments(spec: ModelSpec) -> dict[str, str]:
    """Returns the parameters that decide what a model becomes, and `spec_digest`, which stands for all of them.

    A section that names the user's files carries the digest of their contents.

    Raises:
        InputError: A file that the spec names does not exist.
    """
    arguments = {
        "name": spec.name,
        "task": spec.task,
        "data": dump_section(spec.data, _code(spec.data.loader, "data.loader")),
        "data_schema": dump_section(spec.data_schema, _schema_code(spec.data_schema.pandera)),
        "split": dump_section(spec.split),
        "features": dump_section(spec.features, _code(spec.features.transformer, "features.transformer")),
        "train": dump_section(spec.train, _train_code(spec)),
        "evaluate": dump_section(spec.evaluate),
        "gates": dump_section(spec.gates),
    }
    return {**arguments, "spec_digest": digest_json(arguments)}


def training_arguments(spec: ModelSpec) -> dict[str, Argument]:
    """Returns the training pipeline's parameters for a spec; see `model_arguments`."""
    return {**model_arguments(spec), "notify": dump_section(spec.notify)}


def promotion_arguments(spec: ModelSpec) -> dict[str, Argument]:
    """Returns the promotion pipeline's parameters for a spec."""
    return {"name": spec.name, "rollout": dump_section(spec.rollout), "notify": dump_section(spec.notify)}


def rollback_arguments(spec: ModelSpec) -> dict[str, Argument]:
    """Returns the rollback pipeline's parameters for a spec."""
    return {"name": spec.name, "notify": dump_section(spec.notify)}


def inference_arguments(spec: ModelSpec) -> dict[str, Argument]:
    """Returns the inference pipeline's parameters for a spec; `source` and `fingerprint` are left at their defaults.

    Raises:
        InputError: A file that the spec names does not exist.
    """
    shared = model_arguments(spec)
    count = spec.inference.partitions
    return {
        **{name: shared[name] for name in ("name", "data", "data_schema", "evaluate")},
        "inference": dump_section(spec.inference),
        # Text, as numbers in a list reach a step as 1.0.
        "partitions": [f"{index}/{count}" for index in range(count)],
        "version": spec.inference.version,
        "notify": dump_section(spec.notify),
    }


def monitoring_arguments(spec: ModelSpec) -> dict[str, Argument]:
    """Returns the monitoring pipeline's parameters for a spec."""
    return {
        "name": spec.name,
        "data": dump_section(spec.data),
        "evaluate": dump_section(spec.evaluate),
        "monitor": dump_section(spec.monitor),
        "predictions": spec.monitor.predictions or "",
        "notify": dump_section(spec.notify),
    }


def check_columns(spec: ModelSpec, spec_path: Path) -> None:
    """Checks that every column the spec names is in the schema.

    Raises:
        InputError: The schema cannot be read.
        SpecError: Columns are missing; every one is listed.
    """
    from shipway.dataset.schema import schema_columns

    known = schema_columns(spec.data_schema.pandera)
    named: list[tuple[str, str]] = [("data.label", spec.data.label)]
    named += [("data.key", name) for name in spec.data.key]
    named += [("features.drop", name) for name in spec.features.drop]
    named += [("evaluate.slices", name) for name in spec.evaluate.slices]
    named += [("schema.nulls", name) for name in spec.data_schema.nulls]
    named += [("inference.columns", name) for name in spec.inference.columns]
    named += [("inference.slices", name) for name in spec.inference.slices]
    named += [("monitor.columns", name) for name in spec.monitor.columns]
    named += [("monitor.ignore", name) for name in spec.monitor.ignore]
    if spec.data.time:
        named.append(("data.time", spec.data.time))
    match spec.split:
        case HashSplit(columns=columns):
            named += [("split.columns", name) for name in columns]
        case TimeSplit(column=str(column)) | ColumnSplit(column=column):
            named.append(("split.column", column))
    faults = []
    for where, name in dict.fromkeys(named):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"
            faults.append(f"{spec_path}: {where}: the schema {spec.data_schema.pandera} has no column {name!r}{hint}")
    if faults:
        raise SpecError("\n".join(faults))


def _code(target: str | None, what: str) -> str:
    return import_digest(target, what) if target else ""


def _schema_code(target: str) -> str:
    if ":" in Path(target).name:
        return import_digest(target, "schema.pandera")
    return digest_file(project_file(target, "schema.pandera"))


def _train_code(spec: ModelSpec) -> str:
    if isinstance(spec.train, TorchTrain):
        return _code(spec.train.network, "train.network")
    estimator = spec.train.estimator
    return _code(estimator, "train.estimator") if estimator and ".py:" in estimator else ""
