import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from promotion_registry import mlflow_server

from shipway.lineage import tracking


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A migrated MLflow database: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SHIPWAY_STATE", str(folder))
        tracking.client().search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory, empty_database):
    with mlflow_server(tmp_path_factory.mktemp("server") / "mlflow", empty_database) as url:
        yield url


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch, empty_database):
    for name in ("MLFLOW_TRACKING_URI", "GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_URL", "SHIPWAY_OIDC_ISSUER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SHIPWAY_RUN_ID", "run-1")
    monkeypatch.setenv("SHIPWAY_GIT_SHA", "abc123")
    (tmp_path / "state").mkdir()
    shutil.copy(empty_database, tmp_path / "state" / "mlflow.db")
    return tmp_path / "state"
