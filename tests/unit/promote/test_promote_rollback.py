"""`shipway promote` and `shipway rollback` as real processes, over a real registry and real model servers."""

import json
import os
import pwd
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
sys.path.insert(0, str(Path(__file__).parents[1] / "notify"))

from notify_stand_ins import StandIn, served
from promotion_registry import register
from serving_real import real_release
from serving_releases import end_all
from test_promote_cli import one_line, shipway, write_spec

from shipway.endpoints.client import call, json_bytes
from shipway.endpoints.local import LocalEndpoint
from shipway.errors import ShipwayError
from shipway.lineage import tracking
from shipway.model.registry import set_alias

pytestmark = pytest.mark.slow

ME = pwd.getpwuid(os.getuid()).pw_name
ROW = {"delay": 0.0, "holiday": True, "carrier": "AA"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Real packages, which take a second each to build."""
    folder = tmp_path_factory.mktemp("packages")
    return [Path(real_release(folder, version).package_uri) for version in ("1", "2")]


@pytest.fixture
def project(tmp_path, packages, state):
    (tmp_path / "schema.yaml").write_text("schema_type: dataframe\ncolumns:\n  x: {dtype: float64}\n")
    (tmp_path / "rows.csv").write_text("x,y\n1.5,0\n2.5,1\n")
    write_spec(
        tmp_path,
        f"rollout: {{strategy: blue_green, bake: 1s, keep_warm: 1s, warm_up: 2, min_requests: 1, patience: 1h, "
        f"rules: [], approval: required, approvers: [{ME}]}}\n",
    )
    for package in packages:
        register(package)
    yield tmp_path
    end_all(state)


def serve(version, state):
    """Puts a version into production as a rollout leaves it."""
    from shipway.model.promotion import RegistryLedger, any_release

    release = any_release("flights", version)
    endpoint = LocalEndpoint("flights", state, environment="production")
    status = endpoint.stage(release)
    revision = next(found.id for found in status.revisions if found.version == version)
    before = status.live.version if status.live else ""
    endpoint.shift({revision: 100})
    RegistryLedger().live(release, before)


def answering(state):
    """Returns the version that answers a caller."""
    url = LocalEndpoint("flights", state, environment="production").status().url
    answer = call("POST", f"{url}/v1/models/flights:predict", json_bytes({"instances": [ROW]}))
    assert answer.status == 200
    return answer.headers["x-model-version"]


@contextmanager
def callers(state):
    """Sends requests for the length of a block, which a rollout needs to judge by."""
    ended = threading.Event()

    def ask():
        while not ended.wait(0.2):
            with suppress(ShipwayError):
                answering(state)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def aliases():
    found = tracking.client().get_registered_model("flights").aliases
    return {alias: str(version) for alias, version in found.items() if alias in ("champion", "previous")}


def test_back_and_not_back_twice(project, state):
    serve("1", state)
    serve("2", state)
    assert (answering(state), aliases()) == ("2", {"champion": "2", "previous": "1"})
    with served(StandIn()) as hook:
        sink = f"notify.events={{url: {hook.url}, token: null}}"
        spec = ("--spec", "shipway.yaml", "--set", sink)
        done = shipway(project, "rollback", "flights", "--reason", "wrong prices", "--state", "state", *spec)
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = [request.json["data"] for request in hook.requests]
    assert (told["kind"], told["facts"]["version"], told["facts"]["stable"]) == ("rolled_back", "2", "1")
    assert (answering(state), aliases()) == ("1", {"champion": "1"})
    mark = json.loads(tracking.client().get_model_version("flights", "2").tags["shipway.rolled_back"])
    assert "wrong prices" in mark["reason"]
    assert ME in mark["reason"]
    (report,) = (project / "runs").glob("flights-rollback-*/index.html")
    assert "wrong prices" in report.read_text()
    again = one_line(shipway(project, "rollback", "flights", "--state", "state"), 2)
    assert "version 2 was rolled back already, version 1 has the traffic" in again
    assert (answering(state), aliases()) == ("1", {"champion": "1"})
    status = shipway(project, "rollout", "status", "flights", "--state", "state")
    assert "version 1  100 % of the traffic  ready" in status.stdout
    refused = shipway(project, "promote", "shipway.yaml", "--version", "2", "--state", "state")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "was rolled back on" in refused.stdout + refused.stderr


def test_an_approved_version_goes_live(project, state):
    serve("1", state)
    set_alias("flights", "staging-verified", "2")
    approved = shipway(project, "approve", "flights", "2", "--spec", "shipway.yaml", "--state", "state")
    assert approved.returncode == 0, approved.stderr
    with callers(state):
        promoted = shipway(project, "promote", "shipway.yaml", "--state", "state")
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    assert (answering(state), aliases()) == ("2", {"champion": "2", "previous": "1"})


def test_promote_asks_for_the_approval_first(project, state):
    serve("1", state)
    set_alias("flights", "staging-verified", "2")
    refused = shipway(project, "promote", "shipway.yaml", "--state", "state")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "nobody has approved it" in refused.stdout + refused.stderr
    assert answering(state) == "1"
