"""Alerts told over a real wire: who hears of what, and what happens when a receiver misbehaves."""

import json
import os
import subprocess
import sys

import pytest
from notify_stand_ins import TOKEN, Reply

from shipway.notify import delivery
from shipway.notify.alerts import Alert, told_of, write_alert
from shipway.notify.send import tell, teller
from shipway.spec import dump_section
from shipway.spec.watch import Cause, NotifySection

SECRET = "T0000SECRET/B1111SECRET/hunter2hunter2"


def alert(kind="drift", text="flights version 3: retrain", key="monitor/flights/3/2013-12-31", **facts):
    return Alert("flights", kind, "warning", text, 1.5e9, key, {"version": "3", **facts})


def section(**parts):
    return dump_section(NotifySection.model_validate(parts))


def lines(state):
    return [json.loads(line) for line in (state / "alerts.jsonl").read_text().splitlines()]


def test_without_a_section_an_alert_is_written_down_alone(state, hook, monkeypatch, capsys):
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", hook.url.replace("http", "json"))
    monkeypatch.setenv("SHIPWAY_RUN_ID", "flights-7")
    tell(alert())
    tell(alert())
    (kept,) = lines(state)
    assert (kept["kind"], kept["facts"]) == ("drift", {"run": "flights-7", "version": "3"})
    assert hook.requests == []
    assert capsys.readouterr().err == "warning: flights version 3: retrain\n"


def test_an_alert_line_is_json_whatever_the_facts_are(state):
    write_alert(alert(share=float("nan"), drifted=["a\nb", "ü"], none=None))
    (kept,) = lines(state)
    assert kept["facts"] == {"version": "3", "drifted": ["a\nb", "ü"]}


def test_a_line_that_a_crash_cut_short_hides_nothing(state, capsys):
    state.mkdir()
    (state / "alerts.jsonl").write_text(
        '{"name": "flights", "key": "monitor/fli\n\xff[1]\n"text"\n', encoding="latin-1"
    )
    tell(alert())
    assert json.loads((state / "alerts.jsonl").read_text(errors="replace").splitlines()[-1])["kind"] == "drift"
    assert "warning: flights" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_stops_nothing(tmp_path, monkeypatch, hook, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "file"))
    tell(alert(), section(events={"url": hook.url, "token": "NOWHERE"}))
    assert len(hook.requests) == 1
    assert "alerts.jsonl cannot be written" in capsys.readouterr().err


def test_told_of_knows_what_people_heard_of_a_run(monkeypatch):
    assert not told_of("r1")
    monkeypatch.setenv("SHIPWAY_RUN_ID", "r1")
    tell(alert("checked"))
    assert not told_of("r1")
    tell(alert("rolled_back", key="other"))
    assert told_of("r1")
    assert not told_of("r2")
    assert not told_of("")


def test_every_url_of_the_secret_gets_the_message(hook, monkeypatch, capsys):
    address = hook.url.replace("http://", "json://")
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", f"{address}/one?+x=a,b,\n {address}/two")
    tell(alert(drifted=["dep_delay", "origin"]), section())
    assert sorted(request.path for request in hook.requests) == ["/one", "/two"]
    body = hook.requests[0].json
    assert body["title"] == "[warning] flights: drift"
    assert body["message"].splitlines() == ["flights version 3: retrain", "version: 3", "drifted: dep_delay, origin"]
    assert body["type"] == "warning"
    said = capsys.readouterr().err
    assert "notify: URL 1 of SHIPWAY_NOTIFY_URLS has told JSON" in said
    assert "notify: URL 2 of SHIPWAY_NOTIFY_URLS has told JSON" in said


def test_a_chat_gets_text_and_no_markup(hook, monkeypatch):
    """Mattermost's incoming webhook, which takes what Slack's takes, on a host of one's own."""
    hook.always = Reply(200, b"ok")
    host = hook.url.removeprefix("http://")
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", f"mmost://{host}/3ccdd113474722377935511fc85d3dd4")
    tell(alert("rejected", text="flights: 2 breaches: carrier <b> is new"), section())
    (request,) = hook.requests
    assert request.path == "/hooks/3ccdd113474722377935511fc85d3dd4"
    assert "[warning] flights: rejected" in request.json["text"]
    assert "flights: 2 breaches: carrier <b> is new" in request.json["text"]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("rejected", "rejected"),
        ("failed", "failed"),
        ("drift", "drift"),
        ("approval", "approval"),
        ("live", "live"),
        *((kind, "rollback") for kind in ("rolled_back", "halted", "paused", "rule")),
    ],
)
def test_each_kind_goes_to_whoever_asked_for_its_cause(kind, cause, hook, monkeypatch):
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", hook.url.replace("http://", "json://"))
    others = [name for name in Cause.__args__ if name != cause]
    tell(alert(kind), section(on=others))
    assert hook.requests == []
    tell(alert(kind), section(on=[cause]))
    assert len(hook.requests) == 1


def test_a_check_without_findings_reaches_the_event_sink_only(hook, monkeypatch):
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", hook.url.replace("http://", "json://") + "/people")
    tell(alert("checked"), section(on=list(Cause.__args__), events={"url": f"{hook.url}/hooks/shipway"}))
    assert [request.path for request in hook.requests] == ["/hooks/shipway"]


def test_a_receiver_that_is_away_for_a_moment_is_told_all_the_same(hook, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "_PAUSES", (0.01, 0.01, 0.01))
    hook.faults = [Reply(503), "drop", Reply(429, headers={"Retry-After": "0"})]
    tell(alert(), section(events={"url": hook.url}))
    assert len(hook.requests) == 4
    assert "the event sink took the event (204)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, {"message": f"no such token {TOKEN}"}), "answered 401: no such token ***"),
        (Reply(401, {"message": "x" * 190 + TOKEN}), f"answered 401: {'x' * 190}***"),
        (Reply(500, b"<html>" + b"x" * 100_000), "answered 500"),
        (Reply(302, headers={"Location": "http://127.0.0.1:1/"}), "answered 302: it has moved"),
        (Reply(400, {"detail": "line\nbreak\x1b[31m"}), "answered 400: line break[31m"),
        (Reply(400, ["not", "an", "object"]), "answered 400"),
        (Reply(429, headers={"Retry-After": "86400"}), "answered 429"),
        ("drop", "cannot be reached (127.0.0.1: "),
    ],
)
def test_a_sink_that_refuses_is_named_in_one_line(reply, words, hook, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("SHIPWAY_EVENTS_TOKEN", TOKEN)
    hook.always = reply
    tell(alert(), section(events={"url": f"{hook.url}/hooks/shipway?key={SECRET}"}))
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("notify:")]
    assert line.startswith(f"notify: the event sink could not be told: {words}")
    assert TOKEN not in said
    assert SECRET not in said
    assert {request.headers["authorization"] for request in hook.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://nowhere.invalid/x", "https://127.0.0.1:{port}/x"])
def test_an_address_where_nobody_answers_is_named_in_one_line(url, hook, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "_PAUSES", ())
    port = hook.url.rpartition(":")[2]
    tell(alert(), section(events={"url": url.format(port=port), "token": "NOWHERE"}))
    assert "notify: the event sink could not be told: " in capsys.readouterr().err


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "café"])
def test_a_token_that_no_header_can_carry_is_not_shown(token, hook, monkeypatch, capsys):
    monkeypatch.setenv("SHIPWAY_EVENTS_TOKEN", token)
    tell(alert(), section(events={"url": hook.url}))
    said = capsys.readouterr().err
    assert "variable SHIPWAY_EVENTS_TOKEN holds blanks or letters that no token has" in said
    assert token not in said
    assert hook.requests == []


def test_a_missing_token_is_told_when_the_sink_wants_one(hook, capsys):
    hook.always = Reply(401, {"detail": "a bearer token is wanted"})
    tell(alert(), section(events={"url": hook.url}))
    said = capsys.readouterr().err
    assert (
        "answered 401: a bearer token is wanted (variable SHIPWAY_EVENTS_TOKEN is not set, so it got no token)" in said
    )
    assert "authorization" not in hook.requests[0].headers


def test_no_password_of_a_netrc_goes_anywhere(tmp_path, hook):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password hunter2\n")
    tell(alert(), section(events={"url": hook.url}))
    assert "authorization" not in hook.requests[0].headers


def test_an_apprise_url_that_is_none_or_is_refused_keeps_its_secret(hook, monkeypatch, capsys):
    hook.always = Reply(403, b"go away")
    host = hook.url.removeprefix("http://")
    monkeypatch.setenv(
        "SHIPWAY_NOTIFY_URLS", f"nosuch://{SECRET} slack://T0000SECRET json://ann:hunter2hunter2@{host}/{SECRET}"
    )
    tell(alert(), section())
    said = capsys.readouterr().err
    assert "notify: URL 1 of SHIPWAY_NOTIFY_URLS could not be told: it is no Apprise URL" in said
    assert "notify: URL 2 of SHIPWAY_NOTIFY_URLS could not be told: it is no Apprise URL" in said
    assert "notify: URL 3 of SHIPWAY_NOTIFY_URLS could not be told: JSON did not take the message: Failed" in said
    assert "error=403" in said
    assert len(hook.requests) == 1
    for part in (*SECRET.split("/"), "hunter2"):
        assert part not in said


@pytest.mark.slow
def test_receivers_that_hang_do_not_keep_a_process(hook, github):
    """All three kinds at once, in a process of its own, which has to come to its end."""
    hook.always = github.always = "hang"
    host = hook.url.removeprefix("http://")
    parts = {
        "github": {"repository": "acme/models", "api": github.url},
        "events": {"url": f"{hook.url}/hooks/shipway"},
    }
    code = (
        "import sys\n"
        "from shipway.notify import delivery, send\n"
        "from shipway.notify.alerts import Alert\n"
        "delivery.Deadline.__init__.__defaults__ = (2.0,)\n"
        "send.tell(Alert('flights', 'drift', 'warning', 'moved', 1.5e9, 'k'), sys.argv[1])\n"
        "print('went on')\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, section(**parts)],
        env={
            **os.environ,
            "SHIPWAY_GITHUB_TOKEN": TOKEN,
            "SHIPWAY_NOTIFY_URLS": f"json://{host}/{SECRET}",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.returncode, child.stdout) == (0, "went on\n"), child.stderr
    for name in ("GitHub", "the event sink", "URL 1 of SHIPWAY_NOTIFY_URLS"):
        assert f"notify: {name} could not be told: no answer" in child.stderr
    assert "Traceback" not in child.stderr


def test_a_teller_tells(hook):
    told = teller(section(events={"url": hook.url}))
    told(alert())
    assert hook.requests[0].json["id"] == "monitor/flights/3/2013-12-31"
