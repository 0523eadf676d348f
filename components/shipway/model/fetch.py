"""Gets a model package to a local folder, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from shipway.errors import InputError
from shipway.lineage.tracking import client, local_path, registry_errors, tracking_uri


def fetch_package(uri: str, folder: str | Path) -> Path:
    """Returns the local folder of a package.

    A plain path or a `file:` URI is used in place; anything else (`mlflow-artifacts:`, `models:`, `runs:`,
    `s3:`, `gs:`, ...) is downloaded through MLflow.

    Args:
        uri: Where the package lies.
        folder: Where to download it to, if need be; made if absent.

    Raises:
        InputError: There is no such folder.
        ShipwayError: MLflow could not download it.
    """
    path = local_path(uri)
    if path is not None:
        if not path.is_dir():
            raise InputError(f"{path}: no model package here (no such folder)")
        return path
    client()
    from mlflow.artifacts import download_artifacts

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with registry_errors():
        found = download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=tracking_uri())
    return Path(found)
