"""Alerts: what people, and the trigger service, should hear of; by default a line of JSON in the state folder."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from shipway.lineage.project import state_folder

Severity = Literal["info", "warning", "incident"]


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


def write_alert(alert: Alert) -> None:
    """Appends an alert to `alerts.jsonl` of the state folder and prints it; one that is there already is left out."""
    path = state_folder() / "alerts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if alert.key and path.is_file():
        needle = f'"key": {json.dumps(alert.key)}'
        with path.open(encoding="utf-8") as lines:
            if any(needle in line for line in lines):
                return
    line = json.dumps(asdict(alert), ensure_ascii=False) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
    print(f"{alert.severity}: {alert.text}", file=sys.stderr)
