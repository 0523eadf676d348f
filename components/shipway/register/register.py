"""Registers a blessed model, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shipway.errors import NotBlessedError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, Evaluation, Release
from shipway.lineage.git import git_sha
from shipway.lineage.metadata import safe_metadata
from shipway.lineage.project import project_folder, run_id
from shipway.lineage.steps import StepRecord
from shipway.lineage.tracking import shown_uri, tracking_uri
from shipway.model import registry

_BLESSED = "blessed"


def register_model(
    model: str | Path,
    evaluation: Evaluation,
    blessing: Blessing,
    name: str,
    data_version: str,
    spec_digest: str,
    train_run_id: str = "",
) -> Release:
    """Registers a model's package under `name`, with blessing, evaluation, its lineage as tags, and alias `staging`.

    The same package under the same name is registered once, however often this runs.

    Args:
        model: The package's folder.
        evaluation: What the blessing rests on.
        blessing: The gate's verdict.
        name: The registered model's name.
        data_version: Content hash of the data that the run took in.
        spec_digest: Digest of the spec.
        train_run_id: The MLflow run that trained it, "" when unknown.

    Raises:
        NotBlessedError: The blessing says no, or is of another model or another evaluation.
        ShipwayError: MLflow refused, or cannot be reached.
    """
    digest = digest_tree(model)
    _require_blessing(digest, evaluation, blessing)
    tags = {
        registry.RUN_TAG: run_id(),
        registry.DATA_TAG: data_version,
        registry.GIT_TAG: git_sha(project_folder()),
        registry.SPEC_TAG: spec_digest,
        registry.TRAIN_RUN_TAG: train_run_id,
        registry.DECISION_TAG: blessing.decision,
        **{registry.METRIC_PREFIX + metric: repr(value) for metric, value in evaluation.metrics.items()},
    }
    given = {key: value for key, value in tags.items() if value}
    published = registry.publish(name, model, given, train_run_id, blessing, evaluation)
    return Release(
        name=name,
        version=published.version,
        digest=digest,
        package_uri=published.package_uri,
        tracking_uri=shown_uri(tracking_uri()),
        created=published.created,
        blessing=blessing,
    )


def _require_blessing(digest: str, evaluation: Evaluation, blessing: Blessing) -> None:
    if blessing.decision != _BLESSED:
        raise NotBlessedError(
            f"model {digest} is not blessed, the gate's decision is {blessing.decision!r}: "
            + ("; ".join(blessing.reasons) or "no reason given")
        )
    if blessing.model_digest != digest:
        raise NotBlessedError(f"the blessing is for model {blessing.model_digest}, but this is {digest}")
    if blessing.evaluation_digest != evaluation.content_digest():
        raise NotBlessedError(
            f"the blessing rests on evaluation {blessing.evaluation_digest}, but this is {evaluation.content_digest()}"
        )
    if evaluation.model_digest != digest:
        raise NotBlessedError(f"the evaluation is of model {evaluation.model_digest}, but this is {digest}")


def write_release(done: Release, release: Any, record: StepRecord) -> str:
    """Writes the release and returns its version.

    Args:
        done: What was registered.
        release: Artifact for the document.
        record: The step's record.
    """
    done.write(release.path)
    facts = {"name": done.name, "version": done.version, "model_digest": done.digest, "created": done.created}
    release.metadata.update(safe_metadata(facts))
    record.show(model=done.name, version=done.version, model_digest=done.digest, created=done.created)
    return done.version
