"""The steps of the promotion and the rollback pipeline: documents in, traffic moved, a report out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shipway.endpoints.open import log_uri, open_endpoint
from shipway.endpoints.packages import golden_rows, local_package
from shipway.endpoints.protocol import EndpointStatus
from shipway.errors import InputError
from shipway.lineage.documents import Release, read_document, read_optional
from shipway.model.promotion import RegistryLedger, release_before, release_of
from shipway.notify.send import teller
from shipway.rollout.memory import Memory, read_memory
from shipway.rollout.rollout import roll_back, roll_out
from shipway.spec import RolloutSection, load_endpoint, load_section

ENVIRONMENT = "production"


@dataclass(frozen=True, slots=True)
class Served:
    """What production serves in the end.

    Attributes:
        outcome: `live` or `rolled_back`.
        reason: Why, in a sentence.
        url: Where it answers; "" when nothing is served.
        version: The registry's version; "" when nothing is served.
        digest: Its package's digest; "" when nothing is served.
    """

    outcome: str
    reason: str
    url: str
    version: str
    digest: str


def rollout(
    release_path: str | Path,
    stable_path: str | Path,
    section: str,
    settings: str,
    report_path: str | Path,
    notify: str = "",
) -> Served:
    """Rolls a release out to production; takes a rollout up again that was cut off.

    Args:
        release_path: The Release document of the version to roll out.
        stable_path: That of the version to go back to; an empty file when there is none.
        section: The spec's section rollout, as the pipelines' JSON parameter.
        settings: The endpoint's settings, as `shipway.spec.parameters.dump_endpoint` writes them.
        report_path: Where the HTML report goes, whatever the outcome.
        notify: The spec's section notify, likewise; "" to write alerts down alone.

    Raises:
        InputError: The settings name no endpoint.
        RejectedError: The rollout did not end live; the message says why, and what is served now.
        ShipwayError: The endpoint or the registry cannot be reached.
    """
    release = read_document(Release, release_path)
    asked = load_endpoint(settings)
    endpoint = open_endpoint(release.name, asked, ENVIRONMENT)
    result = roll_out(
        release,
        read_optional(Release, stable_path),
        load_section(RolloutSection, section),
        endpoint,
        RegistryLedger(),
        alert=teller(notify),
        golden=golden_rows(local_package(release)),
        report_path=Path(report_path),
        log_uri=log_uri(release.name, asked.endpoint),
    )
    return _served(result.outcome, result.reason, endpoint.status())


def rollback(name: str, settings: str, reason: str, to: str, report_path: str | Path, notify: str = "") -> Served:
    """Puts an earlier version back into production: traffic first, then the registry, then the report.

    Args:
        name: The model.
        settings: The endpoint's settings, as `shipway.spec.parameters.dump_endpoint` writes them.
        reason: Why; "" where nobody says.
        to: The version to go back to, by number or alias; "" for the one before.
        report_path: Where the HTML report goes.
        notify: The spec's section notify, as the pipelines' JSON parameter; "" to write alerts down alone.

    Raises:
        InputError: The settings name no endpoint, or there is no version to go back to.
        ShipwayError: The endpoint or the registry cannot be reached.
    """
    endpoint = open_endpoint(name, load_endpoint(settings), ENVIRONMENT)
    status = endpoint.status()
    result = roll_back(
        name,
        endpoint,
        RegistryLedger(),
        stable=going_back_to(status, read_memory(status.record, name), to),
        reason=reason or "rolled back by hand",
        alert=teller(notify),
        report_path=Path(report_path),
    )
    return _served(result.outcome, result.reason, endpoint.status())


def going_back_to(status: EndpointStatus, memory: Memory | None, to: str) -> Release | None:
    """Returns the version to go back to; None while a rollout is under way, whose record says it.

    The registry is asked only where it must be: one that does not answer may not keep the traffic where it is.

    Args:
        status: What production serves.
        memory: What its record remembers of the last rollout.
        to: The version wanted, by number or alias; "" for the one before.

    Raises:
        InputError: Nothing is served, it was rolled back already, there is no version before it, or a rollout is under
            way, which goes back to its own old version.
    """
    name, live = status.name, status.live
    if memory is not None and memory.stage != "done":
        before = memory.stable.release.version if memory.stable else ""
        if to and to != before:
            goal = f"version {before}" if before else "nothing"
            raise InputError(
                f"{name}: the rollout of version {memory.candidate.release.version} is under way and goes back to "
                f"{goal}; end it first with: shipway rollback {name}"
            )
        return None
    if live is None:
        raise InputError(f"{name}: nothing is served in production, so that there is nothing to roll back")
    if to:
        return release_of(name, to)
    if memory is not None and memory.stable is not None:
        old = memory.stable.release
        if memory.outcome == "live" and live.version == memory.candidate.release.version and old.package_uri:
            return old
        if memory.outcome != "live" and live.version == old.version:
            if memory.skipped:
                # The traffic is back, and what was given up then is still to be done.
                return old
            raise InputError(
                f"{name}: version {memory.candidate.release.version} was rolled back already, version {live.version} "
                f"has the traffic; to go back further name the version: shipway rollback {name} --to VERSION"
            )
    found = release_before(name, live.version)
    if found is None:
        raise InputError(f"{name}: there is no version before {live.version}; name one with --to VERSION")
    return found


def _served(outcome: str, reason: str, status: EndpointStatus) -> Served:
    live = status.live
    return Served(
        outcome=outcome,
        reason=reason,
        url=status.url if live else "",
        version=live.version if live else "",
        digest=live.digest if live else "",
    )
