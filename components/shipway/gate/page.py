"""The gate's verdict as one HTML page."""

from __future__ import annotations

import html

from shipway.gate.rules import BLESSED
from shipway.lineage.documents import Blessing
from shipway.lineage.html import page, section, table, verdict


def gate_page(blessing: Blessing) -> str:
    """Returns the verdict as a whole HTML page."""
    blessed = blessing.decision == BLESSED
    rows = [(result.rule, result.value, result.bound, verdict(result.passed), result.note) for result in blessing.rules]
    body = []
    if blessing.reasons:
        items = "".join(f"<li>{html.escape(reason)}</li>" for reason in blessing.reasons)
        body.append(section("Why it was rejected", f"<ul>{items}</ul>"))
    if rows:
        body.append(section("Rules", table(["rule", "value", "bound", "verdict", "note"], rows)))
    facts = [("model digest", blessing.model_digest), ("evaluation digest", blessing.evaluation_digest)]
    body.append(section("What was judged", table(["", ""], facts)))
    failed = sum(not result.passed for result in blessing.rules)
    lead = f"{len(rows)} rules, {failed} failed" if rows else "no rules"
    return page("Gate", "".join(body), status="ok" if blessed else "bad", badge=blessing.decision, lead=lead)
