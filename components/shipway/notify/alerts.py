"""Alerts: what people, and the trigger service, should hear of; by default a line of JSON in the state folder."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from shipway.lineage.digests import digest_json
from shipway.lineage.metadata import safe_metadata
from shipway.lineage.project import run_id, state_folder
from shipway.spec.watch import Cause

Severity = Literal["info", "warning", "incident"]
CAUSES: dict[str, Cause] = {
    "live": "live",
    "rolled_back": "rollback",
    "halted": "rollback",
    "paused": "rollback",
    "rule": "rollback",
    "rejected": "rejected",
    "failed": "failed",
    "approval": "approval",
    "drift": "drift",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that people should hear.

    Attributes:
        name: The model's name.
        kind: What happened. A rollout: `live`, `rolled_back`, `halted`, `paused`, `rule`. A run: `rejected`, `failed`,
            `approval` (somebody's yes is wanted). Monitoring: `checked` (nothing to do), `drift`.
        severity: How grave it is.
        text: It in one sentence.
        time: Seconds since the epoch.
        key: The same for the same event, also when it is sent again after a crash.
        facts: Small JSON values for machines: `version`, `decision`, `run`, `gauges`, `baseline`.
    """

    name: str
    kind: str
    severity: Severity
    text: str
    time: float
    key: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cause(self) -> Cause | Literal[""]:
        """What the spec's section `notify` calls it; "" for what nobody needs to hear, as a check without findings."""
        return CAUSES.get(self.kind, "")

    @property
    def identity(self) -> str:
        """Its key; of an alert without one, a digest of what it says."""
        return self.key or digest_json([self.name, self.kind, self.text, round(self.time)])

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON values, without NaN, infinities and None."""
        return safe_metadata(asdict(self))


def write_alert(alert: Alert) -> None:
    """Appends an alert to `alerts.jsonl` of the state folder and prints it; one that is there already is left out.

    A step in a cluster may have no folder that it can write to; the printed line is what is left then.
    """
    if alert.key and any(line.get("key") == alert.key for line in _alerts()):
        return
    path = state_folder() / "alerts.jsonl"
    line = json.dumps(alert.plain(), ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        print(f"notify: {path} cannot be written ({error.strerror}): the alert is not kept", file=sys.stderr)
    print(f"{alert.severity}: {alert.text}", file=sys.stderr)


def told_of(run: str) -> bool:
    """Tells whether people have heard of a run what its end would say again, as that its version was rolled back."""
    return any(line.get("kind") in CAUSES and line.get("facts", {}).get("run") == run for line in _alerts() if run)


def this_run(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an alert's facts with the run that this process belongs to, where it does."""
    run = run_id()
    return {"run": run, **facts} if run else dict(facts)


def _alerts() -> Iterator[dict[str, Any]]:
    """Yields the alerts that the state folder keeps; a line that a crash cut short is none."""
    path = state_folder() / "alerts.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
