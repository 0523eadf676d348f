"""One alert is one run, wherever the service is killed on the way: real processes, over a real wire, with SIGKILL."""

from pathlib import Path

import pytest
from kubeflow_stand_in import StandIn, serving
from trigger_parts import PENGUINS, decisions, log_of, post, route, service, until, write_routes

from shipway.triggers.store import Store

pytestmark = pytest.mark.slow

POINTS = ["stored", "decided", "claimed", "at work", "begun", "recorded"]


def test_killed_at_every_point_it_still_starts_one_run(tmp_path: Path) -> None:
    specs = {"penguins": {"spec": str(PENGUINS), "target": "kubeflow"}}
    written = write_routes(tmp_path, route(unchanged="skip"), specs=specs)
    database = f"sqlite:///{tmp_path}/trigger.db"
    event = {"id": "drift-of-december", "kind": "drift"}

    def lives() -> list[str]:
        """Returns the points at which it has died so far."""
        lines = log_of(tmp_path).read_text().splitlines()
        return [line.removesuffix(" -9") for line in lines if line.endswith(" -9")]

    with serving() as kubeflow, service(tmp_path, written, database, POINTS, kubeflow.url) as url:
        until(lambda: post(url, event) == 202, tmp_path, "not taken")
        until(lambda: lives() == POINTS, tmp_path, "not killed at every point")
        # Sent again and again, it stays the same event.
        until(lambda: post(url, event) == 202, tmp_path, "not taken")
        assert all(post(url, event) == 202 for _ in range(9))
        store = Store(database)
        (decision,) = decisions(store)
        assert decision["state"] == "started", decision
        assert decision["run_name"] == f"penguins-training-{decision['key']}"
        (alert,) = store.alerts()
        assert alert["count"] >= 11
        ends(kubeflow)
        until(lambda: decisions(store)[0]["state"] == "failed", tmp_path, "its end is not seen")
        store.close()
        # A later, different event for the same rows starts nothing.
        assert post(url, {"id": "drift-of-january", "kind": "drift"}) == 202
        store = Store(database)
        until(lambda: [one["state"] for one in decisions(store)] == ["failed", "skipped"], tmp_path, "not skipped")
        assert "the rows are unchanged" in decisions(store)[1]["reason"]
        store.close()
    assert len(kubeflow.runs) == len(kubeflow.live) == 1
    assert kubeflow.runs[0]["display_name"] == decision["run_name"]


def ends(kubeflow: StandIn) -> None:
    """Lets the run end badly."""
    kubeflow.runs[0]["state"] = "FAILED"
    kubeflow.runs[0]["error"] = {"code": 9, "message": "out of memory"}
