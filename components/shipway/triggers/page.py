"""The page for people: the last alerts, what became of each, and why."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from shipway.lineage.html import Markup, page, section, table, text

_LINE = 160
_GOOD = ("succeeded", "done")


def alerts_page(alerts: Sequence[Mapping[str, Any]], waiting: int, states: Mapping[str, int]) -> str:
    """Returns the page of the last alerts.

    Args:
        alerts: As `Store.alerts` returns them.
        waiting: How many alerts nobody has looked at yet.
        states: Decisions that do something, by state.
    """
    counts = [f"{count} {state}" for state, count in sorted(states.items())]
    lead = ", ".join([f"{waiting} to decide", *counts])
    rows = [
        [
            _moment(one["last_seen"]),
            _link(f"/view/{one['id']}", _short(one["title"])),
            one["source"],
            one["kind"] + (", over" if one["resolved"] else ""),
            one["count"],
            _became(one),
        ]
        for one in alerts
    ]
    if not rows:
        return page("Alerts", section("No alert has come yet"), lead=lead)
    headers = ("Last seen (UTC)", "Alert", "Source", "Kind", "Times", "What became of it")
    return page("Alerts", table(headers, rows), lead=lead)


def alert_page(alert: Mapping[str, Any]) -> str:
    """Returns the page of one alert, as `Store.alert` returns it."""
    facts = [
        ("Source", alert["source"]),
        ("Kind", alert["kind"] + (", over" if alert["resolved"] else "")),
        ("First seen (UTC)", _moment(alert["received"])),
        ("Last seen (UTC)", _moment(alert["last_seen"])),
        ("Times", str(alert["count"])),
        ("Fingerprint", alert["fingerprint"]),
        ("Id", alert["id"]),
    ]
    decided = [
        [one["route"], _state(one["state"]), one["reason"], _run(one), one["attempts"], _moment(one["updated"])]
        for one in alert["decisions"]
    ]
    headers = ("Route", "State", "Why", "Run", "Attempts", "Changed (UTC)")
    payload = orjson.dumps(alert["payload"], option=orjson.OPT_INDENT_2).decode()
    return page(
        _short(alert["title"]),
        section("What became of it", table(headers, decided) if decided else text(_became(alert)))
        + section("Alert", table(("", ""), facts))
        + section("Labels", table(("Label", "Value"), sorted(alert["labels"].items())))
        + section("Payload", f"<pre>{text(payload)}</pre>"),
    )


def _became(alert: Mapping[str, Any]) -> Markup:
    if alert["decisions"]:
        lines = [_decision(one) for one in alert["decisions"]]
    else:
        lines = [text("not decided yet" if alert["state"] == "new" else "no route is for it")]
    return Markup("<br>".join(lines))


def _decision(one: Mapping[str, Any]) -> Markup:
    if not one["route"]:
        return text(_short(one["reason"]))
    run = _run(one)
    words = f"{text(one['route'])}: {_state(one['state'])}"
    return Markup(words + (f" {run}" if run else "") + (f", {text(_short(one['reason']))}" if one["reason"] else ""))


def _state(state: str) -> Markup:
    kind = "passed" if state in _GOOD else "failed" if state == "failed" else ""
    return Markup(f'<span class="{kind}">{text(state)}</span>') if kind else text(state)


def _run(one: Mapping[str, Any]) -> Markup:
    name, link = one["run_name"], one["run_link"]
    # A link is the platform's word; anything but the web's is shown, and leads nowhere.
    if link and urlsplit(link).scheme in ("http", "https"):
        return _link(link, name or link)
    return text(name)


def _link(target: str, words: str) -> Markup:
    return Markup(f'<a href="{text(target)}" rel="noreferrer">{text(words or "(no title)")}</a>')


def _moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _short(words: str) -> str:
    return words if len(words) <= _LINE else words[: _LINE - 3] + "..."
