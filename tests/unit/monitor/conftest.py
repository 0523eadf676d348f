"""A registered model, made once for the folder's tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from monitor_world import World, register_parcels
from serving_releases import end_all

from shipway.lineage.documents import Release


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Release]]:
    folder = tmp_path_factory.mktemp("parcels")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SHIPWAY_STATE", str(folder / "state"))
        patch.setenv("SHIPWAY_PROJECT", str(folder))
        yield folder / "state", register_parcels(folder)


@pytest.fixture
def world(tmp_path: Path, registered: tuple[Path, Release], monkeypatch: pytest.MonkeyPatch) -> World:
    state, release = registered
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SHIPWAY_STATE", str(state))
    return World(tmp_path, release, state)


@pytest.fixture
def ended(world: World) -> Iterator[None]:
    """Ends what a test has served, also when it fails."""
    yield
    end_all(world.state)
