"""Where the MLflow tracking server and registry are, and a client of them that keeps quiet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.errors import InputError, ShipwayError
from shipway.lineage.project import STATE_VARIABLE, state_folder, state_lasts

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_DATABASE = "mlflow.db"
_ARTIFACTS = "mlartifacts"


def tracking_uri() -> str:
    """Returns MLflow's URI: `$MLFLOW_TRACKING_URI`, else a SQLite file in the state folder (no server needed)."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{state_folder() / _DATABASE}"


def is_empty() -> bool:
    """Tells, without importing MLflow, that nothing was ever tracked: the default SQLite file is not there yet."""
    return not os.environ.get(URI_VARIABLE) and not (state_folder() / _DATABASE).exists()


def client() -> MlflowClient:
    """Returns a client of `tracking_uri()`. MLflow's own chatter below errors, and its telemetry, are off.

    Raises:
        InputError: The state folder cannot be written to.
        ShipwayError: MLflow cannot be reached, or its database cannot be opened.
    """
    # MLflow reads these when it is imported.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Seven retries with their doubling pauses would be four minutes of silence before a wrong address is reported.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    import logging

    import mlflow

    # Creating the database runs a few dozen migrations that each log a line.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri()
    if not os.environ.get(URI_VARIABLE):
        _check_lasting()
        _make_writable_state()
    with registry_errors():
        return mlflow.MlflowClient(tracking_uri=uri)


def experiment_id(of: MlflowClient, name: str) -> str:
    """Returns the id of an experiment, made if there is none.

    With the default SQLite file its artifacts go to the state folder (MLflow's own default would be `./mlruns`,
    wherever the process happens to stand); a server decides for itself.

    Raises:
        ShipwayError: MLflow cannot be reached, or the experiment was deleted and its name is taken.
    """
    from mlflow.exceptions import MlflowException

    location = None if os.environ.get(URI_VARIABLE) else str(state_folder() / _ARTIFACTS)
    with registry_errors():
        found = of.get_experiment_by_name(name)
        if found is None:
            try:
                return str(of.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                # Another process may have made it in between.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = of.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ShipwayError(
            f"{tracking_uri()}: experiment {name!r} was deleted; restore it (mlflow experiments restore) or purge it"
        )
    return str(found.experiment_id)


@contextmanager
def registry_errors() -> Iterator[None]:
    """Turns what MLflow raises in the block into one ShipwayError that names the tracking URI.

    Raises:
        ShipwayError: MLflow refused, or could not be reached.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        first = str(error).strip().splitlines()[0]
        raise ShipwayError(f"MLflow at {shown_uri(tracking_uri())}: {first}") from error
    except (OSError, SQLAlchemyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ShipwayError(f"MLflow at {shown_uri(tracking_uri())}: {first}") from error


def _check_lasting() -> None:
    """Refuses a registry in a container's own files, where a registered model would be lost with the container.

    Raises:
        InputError: This is one of Shipway's images, and neither a server nor a lasting folder is named.
    """
    if not state_lasts():
        raise InputError(
            f"no registry: {URI_VARIABLE} is not set, and what this container writes is lost with it; set it (by the "
            f"spec's kubeflow.config_map or vertex.variables), or {STATE_VARIABLE} to a folder that lasts"
        )


def _make_writable_state() -> None:
    """Makes the state folder; MLflow would retry an unwritable one for a minute before it says so."""
    folder = state_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot keep the model registry here: {error.strerror or error}") from error


def shown_uri(uri: str) -> str:
    """Returns a URI without the password it may carry."""
    scheme, sep, rest = uri.partition("://")
    login, at, host = rest.rpartition("@")
    user = login.split(":", 1)[0]
    return f"{scheme}{sep}{user}{at}{host}" if at else uri


def local_path(uri: str) -> Path | None:
    """Returns the path that a plain path or a `file:` URI names, None for any other URI."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(uri)
    if uri.startswith("/") or not parts.scheme:
        return Path(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path))
