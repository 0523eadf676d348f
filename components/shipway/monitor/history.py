"""Past checks: a JSON document each, in a folder that outlives the runs, named by the end of its window.

    FOLDER/MODEL/20260131T120000Z-v3.json

A check that is made again takes the place of the one before, so that a retried step leaves one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from shipway.lineage import files, storage
from shipway.lineage.documents import MonitorFindings
from shipway.lineage.project import state_folder, state_lasts
from shipway.lineage.storage_errors import is_remote
from shipway.monitor.observation import located, moment

if TYPE_CHECKING:
    from shipway.spec.watch import MonitorSection

_NAME = re.compile(r"\d{8}T\d{6}Z-v.+\.json")


def keeps_history(section: MonitorSection) -> bool:
    """Tells whether past checks outlive a run."""
    return section.history is not None or state_lasts()


def past_checks(section: MonitorSection, name: str, until: str) -> tuple[list[MonitorFindings], list[str]]:
    """Returns the checks before one, the oldest first, and what was wrong with those that cannot be read.

    Args:
        section: The spec's monitor section: as many as its `trend` shows, or as its rules count, if these are more.
        name: The model.
        until: The end of the check's window; later checks, and an earlier attempt at this one, do not count.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    folder = _folder(section, name)
    before = [file for file in storage.names(folder) if _NAME.fullmatch(file) and file[:16] < _stamp(until)]
    found, notes = [], []
    most = max(section.trend, *(rule.checks for rule in section.rules)) if section.rules else section.trend
    for file in before[-(most - 1) :]:
        content = storage.read_bytes(storage.join(folder, file))
        try:
            found.append(MonitorFindings.model_validate_json(content or b""))
        except ValidationError as error:
            notes.append(f"{storage.join(folder, file)}: no past check, left out: {error.errors()[0]['msg']}")
    return found, notes


def keep_check(section: MonitorSection, findings: MonitorFindings) -> str:
    """Keeps a check for those to come, and returns where.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    file = f"{_stamp(findings.until)}-v{findings.version}.json"
    place = storage.join(_folder(section, findings.model), file)
    content = findings.model_dump_json(indent=2).encode() + b"\n"
    if is_remote(place):
        storage.write_bytes(place, content)
    else:
        files.write_bytes(Path(place), content)
    return place


def _folder(section: MonitorSection, name: str) -> str:
    kept = located(section.history) if section.history else str(state_folder() / "monitoring")
    return storage.join(kept, name)


def _stamp(text: str) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment(text), UTC).strftime("%Y%m%dT%H%M%SZ")
