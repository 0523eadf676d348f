"""What `observe` hands to `monitor`: a folder with all that a check needs, so that `monitor` reaches for nothing.

observation.json    Observation
package.json        what the watched package says of itself (PackageInfo)
statistics.json     the training part, column by column (Statistics)
predictions.json    the predictions over the validation part; missing for a package of an older Shipway
profile.json        counts of the window's rows against these two (Profile)
sample.parquet      rows of the window, at most `monitor.sample`: a column a feature, and `(prediction)`; where the
                    rows themselves are to be had
labelled.parquet    predictions whose label has come: `truth` (index of the class, or the value), `outputs` (list:
                    all probabilities, or the value), `slice.COLUMN`
history.json        past checks, the oldest first (list of MonitorFindings)
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from shipway.endpoints.window import Window
from shipway.errors import InputError
from shipway.lineage.documents import Document, Evaluation
from shipway.lineage.project import project_folder
from shipway.lineage.storage_errors import is_remote

OBSERVATION = "observation.json"
PACKAGE = "package.json"
STATISTICS = "statistics.json"
PREDICTIONS = "predictions.json"
PROFILE = "profile.json"
SAMPLE = "sample.parquet"
LABELLED = "labelled.parquet"
HISTORY = "history.json"
SLICE = "slice."
PREDICTION = "(prediction)"
# A log has thousands of small parts a day, and a frame of one row takes as much memory as one of a hundred: so many are
# gathered before they are put together.
MOST_FRAMES = 1000


class LabelCounts(BaseModel):
    """How many labels have come.

    Attributes:
        since: From when on predictions are looked at (ISO, UTC): further back than the window, as labels come late.
        predicted: Predictions with a key since then; one a key, the last.
        labelled: Of these, how many have a label that counts.
        unknown: Labels that the model does not know, or that are no number; left out.
    """

    since: str
    predicted: int
    labelled: int
    unknown: int = 0


class Observation(Document):
    """What a version did in a window.

    Attributes:
        name: The model.
        version: Its version in the registry.
        digest: The digest of its package.
        since: Beginning of the window, ISO, UTC.
        until: Its end.
        source: `log` or `batch`.
        place: Where the predictions lie.
        rows: Predictions in the window.
        labels: None where the spec names no labels.
        service: What the endpoint counted; None where it does not say.
        baseline: What the rollout kept of the time just after the version went live; None where there is nothing.
        evaluation: The test metrics that are kept with the version; None for a version of an older Shipway.
        notes: What could not be looked at, and why, in sentences.
    """

    name: str
    version: str
    digest: str
    since: str
    until: str
    source: Literal["log", "batch"]
    place: str
    rows: int
    labels: LabelCounts | None = None
    service: Window | None = None
    baseline: dict[str, Any] | None = None
    evaluation: Evaluation | None = None
    notes: list[str] = Field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """What is worth showing of it."""
        found = {"version": self.version, "since": self.since, "until": self.until, "rows": self.rows}
        return found | ({"labelled_rows": self.labels.labelled} if self.labels else {})


def located(uri: str) -> str:
    """Returns a path or URI of the spec's; a relative path starts at the project folder."""
    if is_remote(uri):
        return uri
    return str(project_folder().absolute() / uri.removeprefix("file://"))


def moment(text: str) -> float:
    """Returns a moment, seconds since the epoch; a time without a zone is UTC.

    Raises:
        InputError: It is no ISO date or time.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"until: expected an ISO date or time, as 2026-01-31T12:00, found {text!r}") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def iso(seconds: float) -> str:
    """Returns a moment as ISO text in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
