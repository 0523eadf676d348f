import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from notify_stand_ins import GitHub, Google, StandIn, served


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """A state folder of its own, and none of this machine's secrets."""
    for name in ("SHIPWAY_NOTIFY_URLS", "SHIPWAY_GITHUB_TOKEN", "SHIPWAY_EVENTS_TOKEN", "SHIPWAY_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "state"


@pytest.fixture
def github():
    with served(GitHub()) as found:
        yield found


@pytest.fixture
def hook():
    with served(StandIn()) as found:
        yield found


@pytest.fixture
def google():
    with served(Google()) as found:
        yield found
