"""The yes that a promotion may need."""

from __future__ import annotations

import time
from pathlib import Path

from shipway.errors import InputError, RejectedError
from shipway.lineage.documents import Release, read_document
from shipway.lineage.project import run_id
from shipway.model.approval import Approval, approve, check_approver, require_approval
from shipway.notify.alerts import Alert
from shipway.notify.send import tell
from shipway.promote.identity import approver
from shipway.spec import RolloutSection, load_section


def approval(release_path: str | Path, rollout: str, notify: str = "") -> Approval | None:
    """Makes sure that a release may be promoted, as far as people have a say; asks them where it may not.

    Args:
        release_path: The Release document.
        rollout: The spec's section rollout, as the pipelines' JSON parameter.
        notify: The spec's section notify, likewise; "" to write the alert down alone.

    Returns:
        The approval that counts; None when the spec needs none.

    Raises:
        RejectedError: The spec needs an approval, and nobody whom it names has given one for this very package.
        ShipwayError: MLflow cannot be reached.
    """
    release = read_document(Release, release_path)
    try:
        return require_approval(release, load_section(RolloutSection, rollout))
    except RejectedError as error:
        wanted = f"approval/{release.name}/{release.version}/{run_id() or release.digest}"
        facts = {"version": release.version, "digest": release.digest}
        tell(Alert(release.name, "approval", "warning", str(error), time.time(), wanted, facts), notify)
        raise


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
