"""From a spec to the parameters of the training pipeline."""

import difflib
from pathlib import Path

from shipway.errors import SpecError
from shipway.lineage.digests import digest_file, digest_json
from shipway.lineage.project import import_digest, project_file
from shipway.spec import ColumnSplit, HashSplit, ModelSpec, TimeSplit, TorchTrain, dump_section


def pipeline_arguments(spec: ModelSpec) -> dict[str, str]:
    """Returns the training pipeline's parameters for a spec; `source` and `fingerprint` are left at their defaults.

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
