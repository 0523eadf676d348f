"""Rollouts on the endpoint in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout_memory_endpoint import Killed, MemoryEndpoint, MemoryLedger, Turned, release

from shipway.endpoints.protocol import revision_id
from shipway.errors import RejectedError
from shipway.notify.alerts import Alert
from shipway.rollout.lease import Owner
from shipway.rollout.memory import Memory, read_memory
from shipway.rollout.report import RolloutReport
from shipway.rollout.rollout import roll_out
from shipway.spec.rollout import RolloutSection

OLD, NEW = "1", "2"
OLD_ID = revision_id(OLD, release(OLD).digest)
NEW_ID = revision_id(NEW, release(NEW).digest)
BASELINE_ID = revision_id(OLD, release(OLD).digest, "baseline")
RULES: list[dict[str, Any]] = [
    {"metric": "error_rate", "max": 0.05, "action": "rollback"},
    {"metric": "latency_p99_ms", "max_ratio": 2.0, "floor": 5.0, "action": "rollback"},
    {"metric": "psi", "max": 0.2, "action": "hold"},
]


def section(**changes: Any) -> RolloutSection:
    quick = {
        "steps": [5, 25, 100],
        "bake": "20s",
        "patience": "2m",
        "hold": "5m",
        "keep_warm": "20s",
        "min_requests": 50,
        "warm_up": 3,
        "rules": RULES,
    }
    return RolloutSection.model_validate({**quick, **changes})


@dataclass
class World:
    """An endpoint, a registry, and whoever hears alerts."""

    path: Path
    old: str = OLD
    clock: Turned = field(default_factory=Turned)
    alerts: list[Alert] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.endpoint = MemoryEndpoint(self.clock)
        self.ledger = MemoryLedger(self.endpoint, champion=self.old)
        if self.old:
            self.endpoint.serve(self.old)

    @property
    def shares(self) -> dict[str, int]:
        return {found.id: found.share for found in self.endpoint.seen().revisions if found.share}

    @property
    def memory(self) -> Memory:
        found = read_memory(self.endpoint.seen().record, self.endpoint.name)
        assert found is not None
        return found

    def heard(self, kind: str) -> int:
        return len({alert.key for alert in self.alerts if alert.kind == kind})

    def start(self, spec: RolloutSection, version: str = NEW, owner: Owner | None = None, log_uri: str = "") -> str:
        """Rolls a version out, and returns the outcome."""
        try:
            result = roll_out(
                release(version),
                release(self.old) if self.old else None,
                spec,
                self.endpoint,
                self.ledger,
                alert=self.alerts.append,
                report_path=self.path / "rollout.html",
                clock=self.clock,
                poll_seconds=1.0,
                golden=[{"x": 1.0}],
                owner=owner,
                log_uri=log_uri,
            )
        except RejectedError:
            return self.memory.outcome or ""
        return result.outcome

    def report(self) -> RolloutReport:
        return RolloutReport.model_validate_json((self.path / "rollout.json").read_text())

    def end_state(self) -> dict[str, Any]:
        """What must be the same with and without a crash."""
        return {
            "shares": self.shares,
            "revisions": sorted(found.id for found in self.endpoint.seen().revisions),
            "mirror": sum(found.mirror for found in self.endpoint.seen().revisions),
            "outcome": self.memory.outcome,
            "marked": self.ledger.marked,
            "champion": self.ledger.champion,
            "steps": [step.label for step in self.memory.steps],
            "heard": sorted({(alert.kind, alert.severity) for alert in self.alerts}),
        }


def until_it_ends(run: Callable[[], str], tries: int = 50) -> str:
    """Starts a controller again and again until one is not killed."""
    for _ in range(tries):
        try:
            return run()
        except Killed:
            continue
    raise AssertionError("killed too often")
