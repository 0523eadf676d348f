"""How the predictions of a batch lie in their folder: what batch inference writes and who joins outcomes reads.

    OUTPUT/BATCH/batch.json                  BatchInfo; written last: a folder without it is unfinished
    OUTPUT/BATCH/profile.json                the rows and predictions, counted (`shipway.model.profile.Profile`)
    OUTPUT/BATCH/part-00000.parquet          a part for each part of the batch's rows, in their order
    OUTPUT/BATCH/dataset.json                the manifest of the parts
    OUTPUT/BATCH/quarantine-00000.parquet    the rows set aside, where there are any (`shipway.dataset.quarantine`)

A folder whose name begins with a dot is one that is being written, or that a killed run left behind.

Columns of the parts:

    row          int64             the row's number in the batch, from 0
    ...          as in the rows    the columns of `data.key`, then those of `inference.columns`
    prediction   float64           binary: probability of the positive class; multiclass: of the label; or the value
    label        text or null      the predicted class; null for regression
    outputs      list of float64   multiclass only: all probabilities, in the order of `BatchInfo.classes`
    version      text              the registry's version
    run_id       text              the run that began the batch
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from shipway.lineage.documents import Document

BATCH_FILE = "batch.json"
PROFILE_FILE = "profile.json"
OWN_COLUMNS = ("row", "prediction", "label", "outputs", "version", "run_id")


class SliceTally(BaseModel):
    """The predictions of the rows where a raw column has one value.

    Attributes:
        column: The column.
        value: The value as text; None for rows without one.
        rows: How many.
        total: Sum of their predictions (multiclass: of the probability of the label); None where nobody summed them.
    """

    column: str
    value: str | None
    rows: int
    total: float | None = None


class BatchInfo(Document):
    """What is known of a scored batch.

    Attributes:
        batch: Its id: the same rows, version and settings have the same.
        model: The model's name.
        version: The registry's version that scored.
        digest: The digest of its package.
        task: binary, multiclass or regression.
        classes: The classes as text, in the order of `outputs`; [] for regression.
        run_id: The run that began the batch.
        began: When that was (UTC, ISO 8601).
        data_version: Content hash of the batch's rows.
        rows: How many rows the batch has.
        quarantined: How many of them were set aside and have no prediction.
        predicted: How many have a prediction.
        key: The columns that identify a row.
        columns: Further raw columns beside the predictions.
        parts: File names, in order.
        slices: The predictions by the values of raw columns.
    """

    batch: str
    model: str
    version: str
    digest: str
    task: str
    classes: list[str]
    run_id: str
    began: str
    data_version: str
    rows: int
    quarantined: int
    predicted: int
    key: list[str]
    columns: list[str]
    parts: list[str]
    slices: list[SliceTally] = Field(default_factory=list)

    @property
    def time(self) -> datetime:
        """When the batch was begun."""
        return datetime.fromisoformat(self.began).astimezone(UTC)
