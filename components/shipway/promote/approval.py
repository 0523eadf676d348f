"""The yes that a promotion may need."""

from __future__ import annotations

from pathlib import Path

from shipway.errors import InputError
from shipway.lineage.documents import Release, read_document
from shipway.model.approval import Approval, approve, check_approver, require_approval
from shipway.promote.identity import approver
from shipway.spec import RolloutSection, load_section


def approval(release_path: str | Path, rollout: str) -> Approval | None:
    """Makes sure that a release may be promoted, as far as people have a say.

    Args:
        release_path: The Release document.
        rollout: The spec's section rollout, as the pipelines' JSON parameter.

    Returns:
        The approval that counts; None when the spec needs none.

    Raises:
        RejectedError: The spec needs an approval, and nobody whom it names has given one for this very package.
        ShipwayError: MLflow cannot be reached.
    """
    return require_approval(read_document(Release, release_path), load_section(RolloutSection, rollout))


def give_approval(name: str, version: str, section: RolloutSection) -> Approval:
    """Approves a version as whoever runs this process; doing it again changes nothing.

    Args:
        name: The model.
        version: A version's number or an alias.
        section: The spec's section rollout.

    Raises:
        InputError: There is no such version; nobody may approve; or a CI job's identity cannot be had.
        RejectedError: The spec does not name whoever runs this.
        NotBlessedError: The registry has no blessing of the version.
        ShipwayError: MLflow, or the token's issuer, cannot be reached.
    """
    if not (section.approvers or section.environment):
        raise InputError("nobody may approve: the spec's rollout.approvers and rollout.environment are both empty")
    found = approver()
    check_approver(found, section)
    return approve(name, version, found)
