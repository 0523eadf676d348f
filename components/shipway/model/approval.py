"""Who has said yes to a version: kept as tags of the version, one for each approver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shipway.errors import RejectedError
from shipway.lineage.digests import digest_json
from shipway.lineage.documents import Release
from shipway.lineage.tracking import registry_errors
from shipway.model.promotion import MARK_TAG, Mark, Tag, any_release, now, read_tag
from shipway.model.registry import find_version, require_registry
from shipway.spec.rollout import RolloutSection

APPROVAL_PREFIX = "shipway.approval."
ISSUER_VARIABLE = "SHIPWAY_OIDC_ISSUER"
_GITHUB = "https://token.actions.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class Approver:
    """Somebody whose identity was established.

    Attributes:
        who: Account, or GitHub's actor.
        via: `account`: of this machine; `github`: a job of an environment, by its signed token.
        environment: github: OWNER/REPOSITORY:ENVIRONMENT.
        issuer: github: who signed the token.
        run: github: the workflow run, as OWNER/REPOSITORY/actions/runs/ID.
    """

    who: str
    via: Literal["account", "github"] = "account"
    environment: str = ""
    issuer: str = ""
    run: str = ""

    def __str__(self) -> str:
        return f"{self.who} ({self.environment})" if self.environment else self.who


class Approval(Tag):
    """One approver's yes to one package.

    Attributes:
        who: See `Approver`.
        via: See `Approver`.
        environment: See `Approver`.
        issuer: See `Approver`.
        run: See `Approver`.
        digest: Digest of the package that was approved.
        when: When (UTC).
    """

    who: str
    via: Literal["account", "github"] = "account"
    environment: str = ""
    issuer: str = ""
    run: str = ""
    digest: str
    when: datetime

    @property
    def approver(self) -> Approver:
        """Whoever gave it."""
        return Approver(self.who, self.via, self.environment, self.issuer, self.run)


def trusted_issuer() -> str:
    """Returns whose tokens tell a CI job's identity: `$SHIPWAY_OIDC_ISSUER` (GitHub Enterprise), else GitHub's."""
    return os.environ.get(ISSUER_VARIABLE, "").rstrip("/") or _GITHUB


def check_approver(approver: Approver, section: RolloutSection) -> None:
    """Makes sure that a spec lets somebody approve.

    Raises:
        RejectedError: It does not; the message says who may.
    """
    if fault := _fault(approver, section):
        raise RejectedError(fault)


def approve(name: str, version: str, approver: Approver) -> Approval:
    """Keeps an approval with a version; a second one by the same approver changes nothing.

    One that was given before the version was rolled back counts no more, and is renewed.

    Args:
        name: The model.
        version: A version's number or an alias.
        approver: Who approves; see `check_approver`.

    Raises:
        InputError: There is no such version.
        NotBlessedError: The registry has no blessing of it.
        ShipwayError: MLflow cannot be reached.
    """
    release = any_release(name, version)
    registry = require_registry(name)
    with registry_errors():
        tags = find_version(registry, name, release.version)[1].tags
        key = _key(approver)
        known = read_tag(Approval, tags, key)
        if known is not None and not _stale(known, release.digest, tags):
            return known
        given = Approval(
            who=approver.who,
            via=approver.via,
            environment=approver.environment,
            issuer=approver.issuer,
            run=approver.run,
            digest=release.digest,
            when=now(),
        )
        registry.set_model_version_tag(name, release.version, key, given.model_dump_json(exclude_defaults=True))
    return given


def approvals_in(tags: Mapping[str, str]) -> list[Approval]:
    """Returns the approvals among a version's tags, oldest first."""
    found = [read_tag(Approval, tags, key) for key in tags if key.startswith(APPROVAL_PREFIX)]
    return sorted((approval for approval in found if approval is not None), key=lambda approval: approval.when)


def approval_of(name: str, version: str) -> Approval | None:
    """Returns a version's newest approval, whoever gave it, None when there is none.

    Raises:
        InputError: There is no such version.
        ShipwayError: MLflow cannot be reached.
    """
    registry = require_registry(name)
    with registry_errors():
        found = approvals_in(find_version(registry, name, version)[1].tags)
    return found[-1] if found else None


def require_approval(release: Release, section: RolloutSection) -> Approval | None:
    """Returns the approval that lets a release be promoted, None when the spec needs none.

    Raises:
        RejectedError: Nobody on the spec's list has approved this very package; the message says who may, and how.
        ShipwayError: MLflow cannot be reached.
    """
    if section.approval == "none":
        return None
    registry = require_registry(release.name)
    with registry_errors():
        tags = find_version(registry, release.name, release.version)[1].tags
    what = f"{release.name} version {release.version}"
    faults = []
    for approval in reversed(approvals_in(tags)):
        fault = _stale(approval, release.digest, tags) or _fault(approval.approver, section)
        if not fault:
            return approval
        faults.append(fault)
    reason = "; ".join(faults) or "nobody has approved it"
    raise RejectedError(
        f"{what} may not be promoted: {reason}; {_who_may(section)} can approve it with: "
        f"shipway approve {release.name} {release.version} --spec SPEC"
    )


def _stale(approval: Approval, digest: str, tags: Mapping[str, str]) -> str:
    """Returns why an approval does not count for a package, "" when it does."""
    if approval.digest != digest:
        return f"{approval.approver} approved digest {approval.digest}, but this is {digest}"
    mark = read_tag(Mark, tags, MARK_TAG)
    if mark is not None and approval.when <= mark.when:
        return f"{approval.approver} approved it before it was rolled back on {mark.when:%Y-%m-%d %H:%M} UTC"
    return ""


def _fault(approver: Approver, section: RolloutSection) -> str:
    """Returns why somebody may not approve, "" when they may."""
    if approver.via == "account":
        allowed = approver.who in section.approvers
        return "" if allowed else f"{approver.who} may not approve: rollout.approvers has {_names(section)}"
    if section.environment is None:
        return f"{approver} may not approve: the spec has no rollout.environment"
    if approver.environment != section.environment:
        return f"{approver} may not approve: rollout.environment is {section.environment}"
    if approver.issuer != trusted_issuer():
        return f"{approver} may not approve: the token is of {approver.issuer}, expected {trusted_issuer()}"
    return ""


def _names(section: RolloutSection) -> str:
    return ", ".join(section.approvers) or "nobody"


def _who_may(section: RolloutSection) -> str:
    ways = [_names(section)] if section.approvers else []
    ways += [f"a job of the environment {section.environment}"] if section.environment else []
    return " or ".join(ways)


def _key(approver: Approver) -> str:
    """Returns an approver's tag; by a digest, since GitHub's actors have characters that a tag's name may not."""
    told = [approver.via, approver.who, approver.environment, approver.issuer]
    return APPROVAL_PREFIX + digest_json(told).removeprefix("sha256:")[:16]
