"""Packages, a state folder and a project; `predict_batches` is made importable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from predict_batches import Batch

    from shipway.model.package import Package
    from shipway.spec import Task


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project folder, with the schema of the model packaged last."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def package_of(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Package]:
    """Returns a function: task -> its package, made once."""
    from predict_batches import make_package

    @cache
    def make(task: Task) -> Package:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHIPWAY_PROJECT", str(project))
            return make_package(tmp_path_factory.mktemp(task), project, task)

    return make


@pytest.fixture
def make_batch(
    package_of: Callable[[Task], Package], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Batch]:
    """Returns a function: task and settings -> a batch in a folder of the test's own."""
    from predict_batches import Batch

    monkeypatch.setenv("SHIPWAY_PROJECT", str(project))
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("SHIPWAY_CHECKPOINTS", raising=False)
    monkeypatch.delenv("SHIPWAY_RUN_ID", raising=False)

    def make(task: Task = "binary", name: str = "batch", **inference: Any) -> Batch:
        folder = tmp_path / name
        folder.mkdir()
        return Batch(folder, package_of(task), inference)

    return make
