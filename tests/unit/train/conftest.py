"""A state folder and a project for each test; `train_inputs` is made importable."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# Tests run beside one another; OpenMP's busy waiting for a processor that another test has makes seconds of
# milliseconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_FOREIGN = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SHIPWAY_RUN_ID", "SHIPWAY_RUN_FOLDER")


@pytest.fixture(scope="session")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database as it makes it, which takes it seconds."""
    from shipway.lineage.tracking import client

    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_STATE", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client().search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def make_state(empty_tracking: Path) -> Callable[[Path], str]:
    """Makes a state folder with an empty tracking database."""

    def make(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(empty_tracking, folder / "mlflow.db")
        return str(folder)

    return make


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder and a project of the test's own."""
    folder = tmp_path / "state"
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setenv("SHIPWAY_STATE", str(folder))
    monkeypatch.setenv("SHIPWAY_PROJECT", str(project))
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    return folder
