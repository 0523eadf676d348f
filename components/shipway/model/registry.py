"""The model registry: MLflow's, with a version for each distinct package and the package kept in its artifact store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.errors import DigestMismatchError, InputError, ShipwayError
from shipway.lineage.digests import digest_tree
from shipway.lineage.locks import exclusive
from shipway.lineage.project import state_folder
from shipway.lineage.tracking import client, experiment_id, is_empty, registry_errors, shown_uri, tracking_uri
from shipway.model.fetch import fetch_package
from shipway.model.kept import keep_first, put_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    from shipway.lineage.documents import Blessing, Evaluation

CHAMPION = "champion"
PREVIOUS = "previous"
STAGING = "staging"
VERIFIED = "staging-verified"

DIGEST_TAG = "shipway.model_digest"
RUN_TAG = "shipway.run_id"
DATA_TAG = "shipway.data_version"
GIT_TAG = "shipway.git_sha"
SPEC_TAG = "shipway.spec_digest"
TRAIN_RUN_TAG = "shipway.train_run_id"
BLESSING_TAG = "shipway.blessing_digest"
EVALUATION_TAG = "shipway.evaluation_digest"
DECISION_TAG = "shipway.decision"
BLESSING = "blessing"
EVALUATION = "evaluation"
METRIC_PREFIX = "shipway.metric."

_LOCK_SECONDS = 300.0
_EXPERIMENT = "shipway-packages"
_PACKAGE_TAG = "shipway.package"


@dataclass(frozen=True)
class ListedModel:
    """One registered version, for a list of all.

    Attributes:
        name: The model.
        version: Its version.
        aliases: The aliases that point to it.
        created: When it was registered (UTC).
        digest: Its package's digest; "" when Shipway did not register it.
        tags: Its other tags.
    """

    name: str
    version: str
    aliases: list[str]
    created: datetime
    digest: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Published:
    """A package's version in the registry.

    Attributes:
        version: The version.
        package_uri: Where the registry keeps the package.
        created: Whether this call made the version.
    """

    version: str
    package_uri: str
    created: bool


def publish(
    name: str,
    package: str | Path,
    tags: Mapping[str, str],
    train_run_id: str = "",
    blessing: Blessing | None = None,
    evaluation: Evaluation | None = None,
) -> Published:
    """Makes sure that the registry has a version of a package, with its documents, tags and the alias `staging`.

    There is one version for each name and package digest, however often this is called and wherever an earlier call
    broke off: a package goes to a place named by its digest, a version is made only once its package is there whole,
    and what is missing of tags and alias is added each time. Tags that are there already stay, because they tell how
    the version first came to be.

    Args:
        name: The registered model, made if absent.
        package: The package's folder.
        tags: Lineage of the version; `DIGEST_TAG` is added.
        train_run_id: The MLflow run that trained it, which then holds the package; else a run made for it does.
        blessing: The gate's verdict, kept beside the package; the first one stays while it is whole.
        evaluation: What the verdict rests on, kept likewise.

    Raises:
        DigestMismatchError: What the artifact store holds is not the package.
        ShipwayError: MLflow refused, or cannot be reached.
    """
    folder = Path(package)
    digest = digest_tree(folder)
    wanted = {**tags, DIGEST_TAG: digest}
    registry = client()
    # MLflow copies file by file: of two runs with the same package on this machine, one would see the other's half.
    one_at_a_time = exclusive(state_folder() / "registry.lock", _LOCK_SECONDS, f"registering {name}")
    with one_at_a_time, registry_errors():
        found = _find(registry, name, digest)
        if found is None:
            run = _package_run(registry, name, digest, train_run_id)
            uri = _upload(registry, run, folder, digest)
            _make_model(registry, name)
            made = registry.create_model_version(name, uri, run_id=run.info.run_id, tags=wanted)
            # Two runs may get here at once with the same package: the first version stays.
            found = _find(registry, name, digest) or made
            if found.version != made.version:
                registry.delete_model_version(name, made.version)
            created = found.version == made.version
        else:
            created = False
            _restore(registry, found, folder, digest)
        for kind, tag, document in (
            (BLESSING, BLESSING_TAG, blessing),
            (EVALUATION, EVALUATION_TAG, evaluation),
        ):
            if document is not None:
                keep_first(registry, found, kind, tag, document.model_dump(mode="json"))
        for key, value in wanted.items():
            if found.tags.get(key) is None:
                registry.set_model_version_tag(name, found.version, key, value)
        if registry.get_registered_model(name).aliases.get(STAGING) != str(found.version):
            registry.set_registered_model_alias(name, STAGING, found.version)
    return Published(str(found.version), str(found.source), created)


def champion(name: str) -> str:
    """Returns the version that the alias `champion` points to, as JSON with `version`, `digest`, `package_uri`; or "".

    Raises:
        ShipwayError: MLflow cannot be reached, or the champion is not of Shipway's making.
    """
    if is_empty():
        return ""
    registry = client()
    with registry_errors():
        model = _find_model(registry, name)
        version = (model.aliases if model else {}).get(CHAMPION)
        if version is None:
            return ""
        found = registry.get_model_version(name, str(version))
    digest = found.tags.get(DIGEST_TAG)
    if not digest:
        raise ShipwayError(
            f"model {name!r}: its champion, version {version}, has no tag {DIGEST_TAG}, so that nobody can tell "
            "what it is; point the alias at a version that Shipway registered, or remove it"
        )
    return json.dumps({"version": str(version), "digest": digest, "package_uri": found.source}, sort_keys=True)


def list_models() -> list[ListedModel]:
    """Returns every version of every registered model, by name and then newest first."""
    if is_empty():
        return []
    registry = client()
    listed = []
    with registry_errors():
        for model in sorted(_pages(registry.search_registered_models), key=lambda model: str(model.name)):
            for version in _versions(registry, model.name):
                tags = dict(version.tags)
                listed.append(
                    ListedModel(
                        name=model.name,
                        version=str(version.version),
                        aliases=_aliases(model, version.version),
                        created=_time(version.creation_timestamp),
                        digest=tags.pop(DIGEST_TAG, ""),
                        tags=tags,
                    )
                )
    return listed


def find_version(registry: MlflowClient, name: str, version: str | None = None) -> tuple[RegisteredModel, ModelVersion]:
    """Returns a model and one version of it; call it inside `registry_errors()`.

    Args:
        registry: MLflow's client.
        name: The model.
        version: A version, an alias, or None for the newest version.

    Raises:
        InputError: There is no such model, version or alias; the message lists what there is.
    """
    model = _find_model(registry, name)
    if model is None:
        names = sorted(str(other.name) for other in _pages(registry.search_registered_models))
        raise InputError(f"no model {name!r}: the registry has {', '.join(names) or 'none'}")
    return model, _pick(registry, model, version)


def require_registry(name: str) -> MlflowClient:
    """Returns MLflow's client, for a model that is expected to be there.

    Raises:
        InputError: Nothing was ever registered.
    """
    if is_empty():
        raise InputError(f"no model {name!r}: the registry at {shown_uri(tracking_uri())} is empty")
    return client()


def lineage(name: str, version: str | None = None) -> dict[str, Any]:
    """Returns everything that is known of a version: whence it came and how it was made.

    Args:
        name: The model.
        version: A version, an alias, or None for the newest version.

    Returns:
        `name`, `version`, `aliases`, `created`, `digest`, `package_uri`, `registry`, `run_id`, `data_version`,
        `git_sha`, `spec_digest`, `metrics` (on the test part), `tags` (the others), `train_run`: None, or its `id`,
        `status`, `params` (hyperparameters, seed), `metrics`.

    Raises:
        InputError: There is no such model, version or alias; the message lists what there is.
    """
    registry = require_registry(name)
    with registry_errors():
        model, found = find_version(registry, name, version)
        tags = dict(found.tags)
        train_run_id = tags.pop(TRAIN_RUN_TAG, "")
        run = _find_run(registry, train_run_id)
        metrics = {
            key.removeprefix(METRIC_PREFIX): float(tags.pop(key))
            for key in sorted(tags)
            if key.startswith(METRIC_PREFIX)
        }
        return {
            "name": name,
            "version": str(found.version),
            "aliases": _aliases(model, found.version),
            "created": _time(found.creation_timestamp).isoformat(timespec="seconds"),
            "digest": tags.pop(DIGEST_TAG, ""),
            "package_uri": found.source,
            "registry": shown_uri(tracking_uri()),
            "run_id": tags.pop(RUN_TAG, ""),
            "data_version": tags.pop(DATA_TAG, ""),
            "git_sha": tags.pop(GIT_TAG, ""),
            "spec_digest": tags.pop(SPEC_TAG, ""),
            "metrics": metrics,
            "tags": tags,
            "train_run": None if run is None else _train_run(run),
        }


def set_alias(name: str, alias: str, version: str) -> None:
    """Points an alias at a version.

    Raises:
        InputError: There is no such model or version; the message lists what there is.
    """
    found = lineage(name, version)
    with registry_errors():
        client().set_registered_model_alias(name, alias, found["version"])


def _pick(registry: MlflowClient, model: RegisteredModel, version: str | None) -> ModelVersion:
    versions = _versions(registry, model.name)
    if version is None and versions:
        return versions[0]
    number = str(model.aliases.get(version, version))
    for candidate in versions:
        if str(candidate.version) == number:
            return candidate
    there = ", ".join(str(candidate.version) for candidate in reversed(versions)) or "none"
    aliases = ", ".join(f"{alias} -> {target}" for alias, target in sorted(model.aliases.items())) or "none"
    wanted = "version" if version is None else f"version or alias {version!r}"
    raise InputError(f"model {model.name!r} has no {wanted}; its versions: {there}; its aliases: {aliases}")


def _find(registry: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    """Returns the first version of a package: by its tag, or by its place where a crash left it without tags."""
    for version in reversed(_versions(registry, name)):
        tag = version.tags.get(DIGEST_TAG)
        if tag == digest or (tag is None and str(version.source).endswith("/" + _artifact_path(digest))):
            return version
    return None


def _versions(registry: MlflowClient, name: str) -> list[ModelVersion]:
    """Returns a model's versions, newest first."""
    quoted = name.replace("'", "''")
    found = list(_pages(registry.search_model_versions, filter_string=f"name = '{quoted}'"))
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def _pages(search: Any, **arguments: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def _find_model(registry: MlflowClient, name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return registry.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _make_model(registry: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        registry.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _artifact_path(digest: str) -> str:
    return f"package-{digest.removeprefix('sha256:')[:32]}"


def _package_run(registry: MlflowClient, name: str, digest: str, train_run_id: str) -> Run:
    """Returns the run that keeps the package: MLflow's server takes a version's package from a run only."""
    trained = _find_run(registry, train_run_id)
    if trained is not None:
        return trained
    experiment = experiment_id(registry, _EXPERIMENT)
    key = f"{name}/{digest}"
    runs = registry.search_runs([experiment], filter_string=f"tags.`{_PACKAGE_TAG}` = '{key}'", max_results=1)
    if runs:
        return runs[0]
    run = registry.create_run(experiment, tags={_PACKAGE_TAG: key}, run_name=f"{name}-{digest[7:19]}")
    registry.set_terminated(run.info.run_id)
    return run


def _find_run(registry: MlflowClient, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        run = registry.get_run(run_id)
    except MlflowException as error:
        # The run may have been tracked elsewhere, or its id be none of this server's making.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _upload(registry: MlflowClient, run: Run, folder: Path, digest: str) -> str:
    """Copies the package to the artifact store and returns its URI, once what lies there is the package."""
    uri = put_folder(registry, run, folder, _artifact_path(digest))
    found = _stored_digest(uri)
    if found != digest:
        raise DigestMismatchError(f"{uri}: the registry holds a package with digest {found}, expected {digest}")
    return uri


def _restore(registry: MlflowClient, version: ModelVersion, folder: Path, digest: str) -> None:
    """Uploads the package of an existing version again where the artifact store has lost or damaged it."""
    try:
        whole = _stored_digest(str(version.source)) == digest
    except ShipwayError:
        whole = False
    if not whole and version.run_id:
        _upload(registry, registry.get_run(version.run_id), folder, digest)


def _stored_digest(uri: str) -> str:
    with tempfile.TemporaryDirectory(prefix="shipway-registry-") as scratch:
        return digest_tree(fetch_package(uri, scratch))


def _aliases(model: RegisteredModel, version: Any) -> list[str]:
    return sorted(alias for alias, target in model.aliases.items() if str(target) == str(version))


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def _train_run(run: Run) -> dict[str, Any]:
    return {
        "id": run.info.run_id,
        "status": run.info.status,
        "params": dict(sorted(run.data.params.items())),
        "metrics": dict(sorted(run.data.metrics.items())),
    }
