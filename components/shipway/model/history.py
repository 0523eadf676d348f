"""A version's way to production in words, from its tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shipway.errors import ShipwayError
from shipway.model.approval import APPROVAL_PREFIX, approvals_in
from shipway.model.promotion import (
    BASELINE_TAG,
    LIVE_TAG,
    MARK_TAG,
    OVERRIDE_TAG,
    Live,
    Mark,
    Override,
    read_tag,
)
from shipway.model.registry import BLESSING_TAG, DECISION_TAG, EVALUATION_TAG

_KINDS: dict[str, tuple[type[Live | Mark | Override], str]] = {
    "live": (Live, LIVE_TAG),
    "rolled_back": (Mark, MARK_TAG),
    "override": (Override, OVERRIDE_TAG),
}
_TEXTS = {
    "decision": DECISION_TAG,
    "evaluation": EVALUATION_TAG,
    "blessing": BLESSING_TAG,
    "baseline": BASELINE_TAG,
}


def history(tags: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a version's tags tell of its promotion, as JSON values.

    Returns:
        `decision` (the gate's), `evaluation`, `blessing` (their digests), `approvals` (who, when, ...), `live` (when,
        after which version), `rolled_back` (when, reason), `override` (who, when, reason), `baseline` (URI); what never
        happened is left out.

    Raises:
        ShipwayError: Somebody has written something else into one of the tags.
    """
    told: dict[str, Any] = {name: tags[key] for name, key in _TEXTS.items() if key in tags}
    approvals = approvals_in(tags)
    if approvals:
        told["approvals"] = [approval.model_dump(mode="json", exclude_defaults=True) for approval in approvals]
    for name, (kind, key) in _KINDS.items():
        found = read_tag(kind, tags, key)
        if found is not None:
            told[name] = found.model_dump(mode="json")
    return told


def other_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags that `history` does not tell of."""
    known = {*_TEXTS.values(), *(key for _, key in _KINDS.values())}
    return {key: value for key, value in tags.items() if key not in known and not key.startswith(APPROVAL_PREFIX)}


def notes(tags: Mapping[str, str]) -> str:
    """Returns in a line who approved a version, and whether it was rolled back; or which tag cannot be read."""
    try:
        return "; ".join(_notes(tags))
    except ShipwayError as error:
        return str(error)


def _notes(tags: Mapping[str, str]) -> list[str]:
    said = []
    if approvals := approvals_in(tags):
        said.append(f"approved by {', '.join(str(approval.approver) for approval in approvals)}")
    mark = read_tag(Mark, tags, MARK_TAG)
    if mark is not None:
        said.append(f"rolled back {mark.when:%Y-%m-%d %H:%M} UTC: {mark.reason}")
    override = read_tag(Override, tags, OVERRIDE_TAG)
    if override is not None:
        said.append(f"overridden by {override.who}: {override.reason}")
    return said
