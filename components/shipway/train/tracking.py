"""One training as an MLflow run: parameters before, losses while, metrics and tags after it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.errors import ShipwayError
from shipway.lineage.files import write_json
from shipway.lineage.metadata import safe_metadata
from shipway.lineage.tracking import client, experiment_id, registry_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_VARIABLE = "MLFLOW_RUN_ID"
_MARKER = "mlflow.json"
_EPOCH_METRICS = {"train_loss": "epoch_train_loss", "val_loss": "epoch_val_loss"}
_LONGEST = 5_000
_BATCH = 1_000


class TrackedRun:
    """An MLflow run that is under way.

    Attributes:
        run_id: MLflow's id of it.
    """

    def __init__(self, mlflow: MlflowClient, run_id: str, logged: Iterable[int] = ()) -> None:
        self._mlflow = mlflow
        self._logged = set(logged)
        self.run_id = run_id

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Logs an epoch's losses, as steps of `epoch_train_loss` and `epoch_val_loss`.

        Raises:
            ShipwayError: MLflow cannot be reached any more.
        """
        self._log({number: metrics})

    def finish(self, history: list[dict[str, float]], metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Logs final metrics and tags, and those epochs that an interrupted predecessor did not get to log.

        Raises:
            ShipwayError: MLflow cannot be reached any more.
        """
        self._log(dict(enumerate(history, start=1)), metrics, tags)

    def _log(
        self,
        epochs: Mapping[int, Mapping[str, float]],
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        new = {number: values for number, values in epochs.items() if number not in self._logged}
        entries = [
            Metric(_EPOCH_METRICS.get(name, name), value, now, number)
            for number, values in new.items()
            for name, value in safe_metadata(values).items()
        ]
        entries += [Metric(name, value, now, 0) for name, value in safe_metadata(metrics or {}).items()]
        labels = [RunTag(name, value) for name, value in (tags or {}).items()]
        with registry_errors():
            # MLflow takes a thousand metrics a call.
            for start in range(0, max(len(entries), 1), _BATCH):
                self._mlflow.log_batch(self.run_id, entries[start : start + _BATCH], tags=labels if start == 0 else ())
        self._logged.update(new)


@contextmanager
def tracked_run(
    experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], folder: Path
) -> Iterator[TrackedRun]:
    """Runs a block as one MLflow run, which ends FINISHED, FAILED, or KILLED (when the process is told to stop).

    `$MLFLOW_RUN_ID` names a run to log to instead of a new one; whoever made it ends it. A run that a killed
    predecessor left RUNNING, as told by a marker in `folder`, is gone on with.

    Args:
        experiment: The experiment's name.
        name: The run's name.
        params: Hyperparameters.
        tags: Tags, such as the versions of the data.
        folder: The training's own folder, locked by this process.

    Raises:
        ShipwayError: MLflow cannot be reached, or has no such run; before the block begins.
    """
    from mlflow.entities import Param, RunTag

    mlflow = client()
    given = os.environ.get(RUN_VARIABLE)
    labels = {str(key): str(value)[:_LONGEST] for key, value in tags.items() if value}
    logged: list[int] = []
    if given:
        with registry_errors():
            run_id = str(mlflow.get_run(given).info.run_id)
    else:
        experiment_key = experiment_id(mlflow, experiment)
        left = _left_running(mlflow, folder)
        with registry_errors():
            if left is None:
                run_id = str(mlflow.create_run(experiment_key, run_name=name).info.run_id)
            else:
                run_id = left
                mlflow.update_run(run_id, name=name)
                logged = [entry.step for entry in mlflow.get_metric_history(run_id, _EPOCH_METRICS["val_loss"])]
        write_json(folder / _MARKER, {"tracking_uri": tracking_uri(), "run_id": run_id})
    with registry_errors():
        mlflow.log_batch(
            run_id,
            params=[Param(str(key), str(value)[:_LONGEST]) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in labels.items()],
        )

    def end(status: str) -> None:
        if not given:
            with registry_errors():
                mlflow.set_terminated(run_id, status)

    try:
        yield TrackedRun(mlflow, run_id, logged)
    except BaseException as error:
        # What went wrong matters more than that MLflow may not hear of it.
        with suppress(ShipwayError):
            end("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit) else "FAILED")
        raise
    end("FINISHED")


def _left_running(mlflow: MlflowClient, folder: Path) -> str | None:
    """Returns the id of the run that a killed predecessor left, if it is still there and RUNNING."""
    from mlflow.exceptions import MlflowException

    try:
        marker = json.loads((folder / _MARKER).read_bytes())
        if marker["tracking_uri"] != tracking_uri():
            return None
        with registry_errors():
            info = mlflow.get_run(marker["run_id"]).info
    except (OSError, ValueError, KeyError, TypeError):
        return None
    except ShipwayError as error:
        cause = error.__cause__
        if isinstance(cause, MlflowException) and cause.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    alive = info.status == "RUNNING" and info.lifecycle_stage == "active"
    return str(info.run_id) if alive else None
