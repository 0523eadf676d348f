"""What the registry knows of a version's way to production: its blessing, marks, aliases and baseline.

It lies in MLflow: the aliases `champion` and `previous`, tags with small JSON, and documents beside the package.
Each change is safe to repeat, and is made in an order that leaves a true picture wherever a crash cuts it.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shipway.errors import DigestMismatchError, InputError, NotBlessedError, RejectedError, ShipwayError
from shipway.lineage.documents import Blessing, Evaluation, Release
from shipway.lineage.tracking import registry_errors, shown_uri, tracking_uri
from shipway.model.kept import keep_document, read_beside, read_document_at
from shipway.model.registry import (
    BLESSING,
    BLESSING_TAG,
    CHAMPION,
    DIGEST_TAG,
    EVALUATION,
    EVALUATION_TAG,
    PREVIOUS,
    champion,
    find_version,
    require_registry,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MARK_TAG = "shipway.rolled_back"
OVERRIDE_TAG = "shipway.override"
LIVE_TAG = "shipway.live"
BASELINE_TAG = "shipway.baseline"
_BASELINE = "baseline"
_BLESSED = "blessed"


class Tag(BaseModel):
    """A tag whose value is a small JSON object."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Mark(Tag):
    """A version was rolled back and may not be promoted again without an override.

    Attributes:
        reason: Why.
        when: When (UTC).
    """

    reason: str
    when: datetime


class Override(Tag):
    """Somebody had a marked version promoted all the same.

    Attributes:
        who: The account that asked for it.
        reason: Why.
        when: When (UTC).
        mark: When the version was marked; a later mark is not overridden by it.
    """

    who: str
    reason: str
    when: datetime
    mark: datetime


class Live(Tag):
    """A version took all traffic.

    Attributes:
        when: When (UTC).
        after: The version that it took over from; "" for the first.
    """

    when: datetime
    after: str = ""


T = TypeVar("T", bound=Tag)


def account() -> str:
    """Returns the name of the account that this process runs as, whatever the environment says of it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def now() -> datetime:
    """Returns the time (UTC), as it is kept in tags."""
    return datetime.now(UTC)


def read_tag(kind: type[T], tags: Mapping[str, str], key: str) -> T | None:
    """Reads a tag, None where there is none.

    Raises:
        ShipwayError: Somebody has written something else there.
    """
    if key not in tags:
        return None
    try:
        return kind.model_validate_json(tags[key])
    except ValidationError as error:
        raise ShipwayError(f"the tag {key} is not of Shipway's making: {tags[key][:100]!r}") from error


def release_of(name: str, version: str, *, override: str = "", who: str = "") -> Release:
    """Returns a version as a release, with its blessing, when it may be promoted.

    Args:
        name: The model.
        version: A version's number or an alias.
        override: Why a version that was rolled back is promoted all the same; recorded with the version.
        who: Who overrides; default: this process's account.

    Raises:
        InputError: There is no such model, version or alias.
        NotBlessedError: The registry has no blessing of this package.
        RejectedError: It is marked as rolled back, and there is no override.
        ShipwayError: MLflow cannot be reached.
    """
    registry = require_registry(name)
    with registry_errors():
        found = find_version(registry, name, version)[1]
        release = _release(found)
        mark = read_tag(Mark, found.tags, MARK_TAG)
        if mark is None:
            return release
        if not override.strip():
            raise RejectedError(
                f"{name} version {found.version} was rolled back on {mark.when:%Y-%m-%d %H:%M} UTC: {mark.reason}; "
                'fix the model and register a new version, or give --override "REASON"'
            )
        earlier = read_tag(Override, found.tags, OVERRIDE_TAG)
        if earlier is None or (earlier.mark, earlier.reason) != (mark.when, override):
            given = Override(who=who or account(), reason=override, when=now(), mark=mark.when)
            _set_tag(registry, found, OVERRIDE_TAG, given)
    return release


def stable_of(name: str) -> Release | None:
    """Returns the champion as a release, None when there is none; it serves already, so a mark does not matter.

    Raises:
        NotBlessedError: The registry has no blessing of its package.
        ShipwayError: MLflow cannot be reached, or the champion is not of Shipway's making.
    """
    found = champion(name)
    return any_release(name, str(json.loads(found)["version"])) if found else None


def any_release(name: str, version: str) -> Release:
    """Returns a version as a release with its blessing, whether or not it is marked; errors as of `release_of`."""
    registry = require_registry(name)
    with registry_errors():
        return _release(find_version(registry, name, version)[1])


def release_before(name: str, live_version: str) -> Release | None:
    """Returns the version to go back to from the one that has the traffic, None where there is none.

    That is the champion, where another version has the traffic; else what was champion before it.

    Args:
        name: The model.
        live_version: The version that has the traffic.

    Raises:
        InputError: There is no such model.
        NotBlessedError: The registry has no blessing of its package.
        ShipwayError: MLflow cannot be reached.
    """
    aliases = aliases_of(name)
    champion_version = aliases.get(CHAMPION, live_version)
    version = champion_version if champion_version != live_version else aliases.get(PREVIOUS, live_version)
    return any_release(name, version) if version != live_version else None


def _release(found: ModelVersion) -> Release:
    digest = found.tags.get(DIGEST_TAG, "")
    return Release(
        name=found.name,
        version=str(found.version),
        digest=digest,
        package_uri=str(found.source),
        tracking_uri=shown_uri(tracking_uri()),
        created=False,
        blessing=_blessing(found, digest),
    )


def _blessing(found: ModelVersion, digest: str) -> Blessing:
    what = f"{found.name} version {found.version}"
    kept = found.tags.get(BLESSING_TAG)
    if not (digest and kept):
        raise NotBlessedError(
            f"{what}: the registry has no blessing of it (it was registered by an older Shipway, or by other means); "
            "run the training pipeline again, which registers it with its blessing"
        )
    try:
        value = read_beside(str(found.source), BLESSING, kept)
        blessing = Blessing.model_validate(value)
    except (DigestMismatchError, InputError) as error:
        raise NotBlessedError(f"{what}: its blessing is gone or was changed: {error}") from error
    except ValidationError as error:
        raise NotBlessedError(f"{what}: its blessing is of another Shipway: {error.errors()[0]['msg']}") from error
    if blessing.decision != _BLESSED:
        raise NotBlessedError(f"{what} is not blessed, the gate's decision is {blessing.decision!r}")
    if blessing.model_digest != digest:
        raise NotBlessedError(f"{what}: its blessing is for model {blessing.model_digest}, but this is {digest}")
    return blessing


class RegistryLedger:
    """What a rollout asks and tells the registry; see `shipway.rollout.ledger.Ledger`."""

    def check(self, release: Release) -> None:
        """Makes sure that a release may get traffic: it is what the registry has, blessed, and not marked.

        Raises:
            DigestMismatchError: The registry's version is another package.
            NotBlessedError: No blessing names it.
            RejectedError: It was rolled back, and nobody has overridden that since.
            ShipwayError: MLflow cannot be reached.
        """
        registry = require_registry(release.name)
        with registry_errors():
            found = find_version(registry, release.name, release.version)[1]
            kept = _release(found)
            if kept.digest != release.digest:
                raise DigestMismatchError(
                    f"{release.name} version {release.version} has digest {kept.digest} in the registry, "
                    f"but {release.digest} was to be promoted"
                )
            mark, override = read_tag(Mark, found.tags, MARK_TAG), read_tag(Override, found.tags, OVERRIDE_TAG)
        if mark is not None and not _overridden(mark, override):
            raise RejectedError(
                f"{release.name} version {release.version} was rolled back on {mark.when:%Y-%m-%d %H:%M} UTC: "
                f"{mark.reason}; promote it with --override, or register a new version"
            )

    def live(self, release: Release, previous_version: str) -> None:
        """Tells that a release has all traffic: alias `champion`, and `previous` for the one before.

        `previous` is moved first: cut off in between, `previous` names the version to go back to all the same.

        Args:
            release: The release.
            previous_version: The version that it took over from; "" for none.

        Raises:
            ShipwayError: MLflow cannot be reached.
        """
        registry = require_registry(release.name)
        with registry_errors():
            model, found = find_version(registry, release.name, release.version)
            after = "" if previous_version == release.version else previous_version
            was = str(model.aliases.get(CHAMPION, ""))
            if after:
                _point(registry, release.name, PREVIOUS, after)
            _point(registry, release.name, CHAMPION, release.version)
            known = read_tag(Live, found.tags, LIVE_TAG)
            if known is None or was != release.version or (after and known.after != after):
                _set_tag(registry, found, LIVE_TAG, Live(when=now(), after=after))

    def rolled_back(self, release: Release, reason: str, *, mark: bool, stable_version: str) -> None:
        """Tells that a release has lost its traffic again.

        It is marked first; then the alias `champion` goes back where it had moved, and `previous` to the version that
        was live before that one.

        Args:
            release: The release.
            reason: Why, in a sentence.
            mark: Whether it may not be promoted again without an override.
            stable_version: The version that has the traffic now; "" for none.

        Raises:
            ShipwayError: MLflow cannot be reached.
        """
        registry = require_registry(release.name)
        with registry_errors():
            model, found = find_version(registry, release.name, release.version)
            if mark:
                known, override = read_tag(Mark, found.tags, MARK_TAG), read_tag(Override, found.tags, OVERRIDE_TAG)
                if known is None or _overridden(known, override):
                    _set_tag(registry, found, MARK_TAG, Mark(reason=reason, when=now()))
            if str(model.aliases.get(CHAMPION, "")) == release.version != stable_version:
                _point(registry, release.name, CHAMPION, stable_version)
            _set_previous(registry, release.name)

    def baseline(self, release: Release, baseline: Mapping[str, Any]) -> None:
        """Keeps what a version did just after it went live, for the monitoring.

        Args:
            release: The release.
            baseline: JSON values: latency, histogram of predictions, statistics of features.

        Raises:
            ShipwayError: MLflow cannot be reached.
        """
        registry = require_registry(release.name)
        with registry_errors():
            found = find_version(registry, release.name, release.version)[1]
            _, uri = keep_document(registry, found, _BASELINE, dict(baseline))
            if found.tags.get(BASELINE_TAG) != uri:
                registry.set_model_version_tag(found.name, found.version, BASELINE_TAG, uri)


def baseline_of(name: str, version: str) -> dict[str, Any] | None:
    """Returns the baseline that a rollout kept with a version, None when there is none.

    Args:
        name: The model.
        version: A version's number or an alias.

    Raises:
        InputError: There is no such version.
        DigestMismatchError: It was changed since.
        ShipwayError: MLflow cannot be reached.
    """
    registry = require_registry(name)
    with registry_errors():
        uri = find_version(registry, name, version)[1].tags.get(BASELINE_TAG)
    return None if uri is None else dict(read_document_at(uri, _BASELINE))


def evaluation_of(name: str, version: str) -> Evaluation | None:
    """Returns the evaluation that a version was blessed by, None where an older Shipway registered it.

    Args:
        name: The model.
        version: A version's number or an alias.

    Raises:
        InputError: There is no such version.
        DigestMismatchError: The evaluation was changed since.
        ShipwayError: It is of another Shipway, or MLflow cannot be reached.
    """
    registry = require_registry(name)
    with registry_errors():
        found = find_version(registry, name, version)[1]
    kept = found.tags.get(EVALUATION_TAG)
    if kept is None:
        return None
    try:
        return Evaluation.model_validate(read_beside(str(found.source), EVALUATION, kept))
    except ValidationError as error:
        raise ShipwayError(
            f"{name} version {found.version}: its evaluation is of another Shipway: {error.errors()[0]['msg']}"
        ) from error


def aliases_of(name: str) -> dict[str, str]:
    """Returns a model's aliases with their versions.

    Raises:
        InputError: There is no such model.
        ShipwayError: MLflow cannot be reached.
    """
    registry = require_registry(name)
    with registry_errors():
        model = find_version(registry, name)[0]
    return {alias: str(version) for alias, version in model.aliases.items()}


def _overridden(mark: Mark, override: Override | None) -> bool:
    return override is not None and override.mark == mark.when


def _set_tag(registry: MlflowClient, version: ModelVersion, key: str, value: Tag) -> None:
    registry.set_model_version_tag(version.name, version.version, key, value.model_dump_json())


def _point(registry: MlflowClient, name: str, alias: str, version: str) -> None:
    """Points an alias at a version, or takes it away; does nothing where that is so already."""
    current = str(registry.get_registered_model(name).aliases.get(alias, ""))
    if current == version:
        return
    if version:
        registry.set_registered_model_alias(name, alias, version)
    else:
        registry.delete_registered_model_alias(name, alias)


def _set_previous(registry: MlflowClient, name: str) -> None:
    """Points `previous` at what was live before the champion, where it points at the champion itself."""
    model = registry.get_registered_model(name)
    champion_version = str(model.aliases.get(CHAMPION, ""))
    if not champion_version or str(model.aliases.get(PREVIOUS, "")) != champion_version:
        return
    known = read_tag(Live, find_version(registry, name, champion_version)[1].tags, LIVE_TAG)
    before = known.after if known else ""
    _point(registry, name, PREVIOUS, before if before and _usable(registry, name, before) else "")


def _usable(registry: MlflowClient, name: str, version: str) -> bool:
    """Tells whether a version is still there and was not rolled back."""
    try:
        return MARK_TAG not in find_version(registry, name, version)[1].tags
    except InputError:
        return False
