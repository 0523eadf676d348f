"""A controller that kills itself at the boundaries of its actions.

    python rollout_child.py FOLDER all|none

It rolls FOLDER/candidate.json out after FOLDER/stable.json, as FOLDER/section.json says, and prints the outcome. With
`all` it dies before and after each kind of action, once each: FOLDER/killed lists the moments of its deaths. What the
registry would be told is kept in FOLDER/ledger.json.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipway.endpoints.open import open_endpoint
from shipway.endpoints.packages import golden_rows
from shipway.endpoints.protocol import EndpointStatus
from shipway.errors import RejectedError
from shipway.lineage.documents import Release, read_document
from shipway.lineage.files import write_json
from shipway.rollout.actions import Action, Notify, Wait
from shipway.rollout.controller import Controller
from shipway.rollout.memory import Memory
from shipway.rollout.rollout import roll_out
from shipway.spec import EndpointSection, EndpointSettings, RolloutSection


class FileLedger:
    """What a registry would know, in a file; each entry is written once, whoever writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, release: Release) -> None:
        assert release.blessing.decision == "blessed"

    def live(self, release: Release, previous_version: str) -> None:
        self._write(champion=release.version, previous=previous_version)

    def rolled_back(self, release: Release, reason: str, *, mark: bool, stable_version: str) -> None:
        assert reason
        self._write(champion=stable_version, marked=release.version if mark else "")

    def baseline(self, release: Release, baseline: Mapping[str, Any]) -> None:
        assert baseline["requests"] > 0
        self._write(baseline=release.version)

    def _write(self, **entries: str) -> None:
        known = json.loads(self._path.read_text()) if self._path.is_file() else {}
        write_json(self._path, {**known, **entries})


class MortalController(Controller):
    """Dies once at a boundary, and is done with that boundary afterwards."""

    mortal = False
    notes = Path()

    def _act(self, memory: Memory, action: Action, status: EndpointStatus) -> EndpointStatus:
        label = action.label if not isinstance(action, Notify) else "notify"
        self._die(f"before {label}")
        after = super()._act(memory, action, status)
        if not isinstance(action, Wait):
            self._die(f"after {label}")
        return after

    def _die(self, moment: str) -> None:
        known = self.notes.read_text().splitlines() if self.notes.is_file() else []
        if self.mortal and moment not in known:
            with self.notes.open("a") as notes:
                notes.write(moment + "\n")
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder = Path(sys.argv[1])
    MortalController.mortal = sys.argv[2] == "all"
    MortalController.notes = folder / "killed"
    release, stable = (read_document(Release, folder / f"{name}.json") for name in ("candidate", "stable"))
    section = RolloutSection.model_validate_json((folder / "section.json").read_text())
    endpoint = open_endpoint(release.name, EndpointSettings(endpoint=EndpointSection(kind="local")), "production")
    import shipway.rollout.rollout as module

    module.Controller = MortalController  # type: ignore[misc]  # the rollout makes its controller itself
    try:
        result = roll_out(
            release,
            stable,
            section,
            endpoint,
            FileLedger(folder / "ledger.json"),
            alert=lambda alert: print(alert.kind, alert.text, file=sys.stderr),
            golden=golden_rows(Path(release.package_uri)),
            report_path=folder / "report.html",
        )
        print(result.outcome)
    except RejectedError as error:
        print(f"rejected {error}")


if __name__ == "__main__":
    main()
