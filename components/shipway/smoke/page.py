"""The smoke test's report."""

from collections.abc import Sequence

from shipway.lineage.documents import Deployment
from shipway.lineage.html import page, section, table, verdict
from shipway.smoke.checks import Check


def smoke_page(deployment: Deployment, checks: Sequence[Check], outcome: str) -> str:
    """Returns the report as HTML.

    Args:
        deployment: What was asked.
        checks: Every check.
        outcome: What the endpoint serves after all, in a sentence.
    """
    failed = sum(not check.passed for check in checks)
    facts = [
        ("Model", deployment.name),
        ("Version", deployment.version),
        ("Digest", deployment.digest),
        ("Endpoint", deployment.url),
        ("Before it", f"version {deployment.previous_version}" if deployment.previous_version else "nothing"),
        ("Outcome", outcome),
    ]
    # Failures first: they are what the page is opened for.
    rows = [
        (check.name, verdict(check.passed), check.expected, "as expected" if check.passed else check.found)
        for check in sorted(checks, key=lambda check: check.passed)
    ]
    return page(
        f"Smoke test of {deployment.name} version {deployment.version}",
        section("Deployment", table(("", ""), facts))
        + section("Checks", table(("Check", "Verdict", "Expected", "Found"), rows)),
        status="bad" if failed else "ok",
        badge=f"{failed} failed" if failed else "passed",
        lead=f"{len(checks) - failed} of {len(checks)} checks passed",
    )
