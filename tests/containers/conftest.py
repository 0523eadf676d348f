import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import engine
import pytest


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    if reason := engine.missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def images(_engine: None) -> dict[str, str]:
    return engine.build_images()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the model package of a run without containers, readable by every user."""
    folder = tmp_path_factory.mktemp("package")
    done = engine.shipway(folder, "run", str(engine.ROOT / engine.PROJECT / "shipway.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    engine.shipway(folder, "down")
    found = next((folder / ".shipway" / "artifacts").glob("**/train/model"))
    return Path(shutil.copytree(found, engine.readable(folder / "served") / "model"))
