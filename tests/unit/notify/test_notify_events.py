"""Alerts as CloudEvents, and what a check of production becomes."""

import datetime as dt
import json
import re

import pytest

from shipway.errors import InputError
from shipway.lineage.documents import Blessing, Compared, FeatureDrift, MonitorFindings, PredictionDrift
from shipway.notify.alerts import Alert
from shipway.notify.checks import alert_of, tell_findings
from shipway.notify.send import tell
from shipway.spec import dump_section
from shipway.spec.watch import NotifySection

# What CloudEvents 1.0 requires of every event, and the forms that it gives the attributes used here.
REQUIRED = {"specversion", "id", "source", "type"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@pytest.fixture
def sink(hook, monkeypatch):
    monkeypatch.setenv("SHIPWAY_EVENTS_TOKEN", "the-token")
    return dump_section(NotifySection.model_validate({"events": {"url": f"{hook.url}/hooks/shipway"}}))


def findings(decision="retrain", **parts):
    return MonitorFindings(
        model="flights",
        version="3",
        since="2013-12-30T00:00:00+00:00",
        until="2013-12-31T00:00:00+00:00",
        rows=27_000,
        decision=decision,
        reasons=["prediction_psi is 0.61, above 0.2", "dep_delay has drifted"],
        measures={"dep_delay": FeatureDrift(kind="number", psi=0.44, exceeded=["psi"])},
        drifted=["dep_delay"],
        drifted_share=0.1,
        prediction=PredictionDrift(psi=0.61),
        performance={"roc_auc": Compared(value=0.7, baseline=0.8), "log_loss": Compared()},
        **parts,
    )


def test_an_event_is_a_cloudevent(hook, sink):
    alert = Alert("flights", "drift", "warning", "moved", 1388448000.25, "monitor/flights/3/x", {"share": float("inf")})
    tell(alert, sink)
    (request,) = hook.requests
    assert (request.method, request.path) == ("POST", "/hooks/shipway")
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["authorization"] == "Bearer the-token"
    event = request.json
    assert event.keys() >= REQUIRED
    assert all(re.fullmatch(r"[a-z0-9]{1,20}", name) for name in event)
    assert RFC3339.fullmatch(event["time"])
    assert dt.datetime.fromisoformat(event["time"]).timestamp() == 1388448000.25
    assert {name: event[name] for name in ("specversion", "type", "source", "subject", "id")} == {
        "specversion": "1.0",
        "type": "dev.shipway.drift",
        "source": "/shipway/models/flights",
        "subject": "flights",
        "id": "monitor/flights/3/x",
    }
    assert event["data"] == {
        "model": "flights",
        "kind": "drift",
        "cause": "drift",
        "severity": "warning",
        "text": "moved",
        "key": "monitor/flights/3/x",
        "facts": {},
    }


def test_an_alert_without_a_key_has_an_id_of_its_own(hook, sink):
    for text in ("one", "one", "two"):
        tell(Alert("flights", "failed", "incident", text, 1.5e9), sink)
    first, again, other = (request.json["id"] for request in hook.requests)
    assert first == again != other


def test_a_check_that_asks_for_retraining(hook, sink, tmp_path):
    path = tmp_path / "findings.json"
    findings().write(path)
    told = tell_findings(path, "flights", sink)
    assert told.text == (
        "flights version 3: retrain after 27000 predictions from 2013-12-30T00:00:00+00:00 to "
        "2013-12-31T00:00:00+00:00: prediction_psi is 0.61, above 0.2; dep_delay has drifted"
    )
    (request,) = hook.requests
    assert request.json["id"] == "monitor/flights/3/2013-12-31T00:00:00+00:00"
    data = request.json["data"]
    assert (data["kind"], data["cause"], data["severity"]) == ("drift", "drift", "warning")
    facts = data["facts"]
    assert {name: facts[name] for name in ("version", "decision", "since", "until", "drifted")} == {
        "version": "3",
        "decision": "retrain",
        "since": "2013-12-30T00:00:00+00:00",
        "until": "2013-12-31T00:00:00+00:00",
        "drifted": ["dep_delay"],
    }
    assert facts["metrics"] == {"roc_auc": 0.7}
    assert facts["gauges"]["prediction_psi"] == 0.61
    assert facts["gauges"]["drift_psi"] == {"dep_delay": 0.44}


@pytest.mark.parametrize(
    ("decision", "kind", "severity"),
    [("ok", "checked", "info"), ("alert", "drift", "warning"), ("rollback", "drift", "incident")],
)
def test_what_a_decision_becomes(decision, kind, severity):
    alert = alert_of(findings(decision), "flights")
    assert (alert.kind, alert.severity) == (kind, severity)


def test_many_reasons_are_cut_for_people_and_kept_for_machines():
    found = findings().model_copy(update={"reasons": [f"reason {count}" for count in range(9)]})
    alert = alert_of(found, "flights")
    assert alert.text.endswith("reason 4; and 4 more")
    assert len(alert.facts["reasons"]) == 9


def test_findings_that_are_none_are_refused(tmp_path, sink):
    (tmp_path / "findings.json").write_text(json.dumps({"model": "flights"}))
    with pytest.raises(InputError, match="not a MonitorFindings document"):
        tell_findings(tmp_path / "findings.json", "flights", sink)


@pytest.mark.parametrize(("run", "key"), [("", "rejected/flights/sha256:m"), ("f-1", "run/flights/f-1/rejected")])
def test_a_model_that_was_not_blessed(run, key, tmp_path, monkeypatch, hook, sink):
    monkeypatch.setenv("SHIPWAY_RUN_ID", run)
    reasons = ["roc_auc 0.71 < 0.84", "worse than the champion"]
    Blessing(decision="rejected", model_digest="sha256:m", evaluation_digest="sha256:e", reasons=reasons).write(
        tmp_path / "blessing.json"
    )
    tell_findings(tmp_path / "blessing.json", "flights", sink)
    data = hook.requests[0].json["data"]
    assert (data["kind"], data["key"], data["facts"]["reasons"]) == ("rejected", key, reasons)
    assert data["text"].endswith("did not bless model sha256:m: roc_auc 0.71 < 0.84; worse than the champion")


def test_findings_that_are_missing_are_refused(tmp_path, sink):
    with pytest.raises(InputError, match="no such MonitorFindings document"):
        tell_findings(tmp_path / "findings.json", "flights", sink)
