"""A registry inside a container's own files is refused: it would be lost with the container."""

from pathlib import Path

import pytest

from shipway.errors import InputError
from shipway.lineage import project, tracking


def test_a_container_without_a_lasting_place_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SHIPWAY_STATE", raising=False)
    monkeypatch.setattr(project, "_MOUNTED_STATE", tmp_path / "volume")
    monkeypatch.setenv("SHIPWAY_IMAGE", "1")
    with pytest.raises(InputError, match=r"no registry: MLFLOW_TRACKING_URI is not set.*SHIPWAY_STATE"):
        tracking.client()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "volume").mkdir()
    assert project.state_lasts()
    monkeypatch.setattr(project, "_MOUNTED_STATE", tmp_path / "none")
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "state"))
    assert project.state_lasts()


def test_a_machine_of_ones_own_keeps_its_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHIPWAY_IMAGE", raising=False)
    assert project.state_lasts()
