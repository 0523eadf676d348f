"""The pages: what they say, and that nothing on them leads astray."""

from html.parser import HTMLParser
from typing import Any

import pytest

from shipway.triggers.page import alert_page, alerts_page

ALERT: dict[str, Any] = {
    "id": "0" * 24,
    "source": "shipway",
    "fingerprint": "f",
    "kind": "alert",
    "title": "flights has drifted",
    "labels": {"model": "flights"},
    "payload": {"data": {"a": 1}},
    "resolved": False,
    "received": 1769860800.0,
    "last_seen": 1769864400.0,
    "count": 3,
    "state": "decided",
    "decisions": [],
}
DECISION: dict[str, Any] = {
    "route": "retrain",
    "state": "started",
    "reason": "it matched",
    "run_name": "flights-training-t1",
    "run_link": "https://kubeflow.example/run/1",
    "attempts": 1,
    "updated": 1769864400.0,
}


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attributes if name == "href"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "new"}, "not decided yet"),
        ({}, "no route is for it"),
        ({"decisions": [DECISION]}, "it matched"),
        ({"decisions": [{**DECISION, "route": "", "state": "skipped", "reason": "it is over"}]}, "it is over"),
    ],
)
def test_it_says_what_became_of_an_alert(changes, said):
    alert = {**ALERT, **changes}
    assert said in alerts_page([alert], 1, {}) or said in "".join(Links(alerts_page([alert], 1, {})).words)
    assert said in "".join(Links(alert_page(alert)).words)


def test_a_run_is_linked():
    page = Links(alerts_page([{**ALERT, "decisions": [DECISION]}], 0, {"started": 1}))
    assert page.links == [f"/view/{'0' * 24}", "https://kubeflow.example/run/1"]
    assert "flights-training-t1" in page.words
    assert "2026-01-31 13:00:00" in page.words
    assert "0 to decide, 1 started" in page.words


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "/runs/1", "file:///etc/passwd", ""])
def test_what_is_no_web_address_is_not_linked(link):
    alert = {**ALERT, "decisions": [{**DECISION, "run_link": link}]}
    assert Links(alerts_page([alert], 0, {})).links == [f"/view/{'0' * 24}"]
    assert Links(alert_page(alert)).links == []


def test_whatever_is_in_an_alert_stays_text():
    attack = '"><script>alert(1)</script><b onclick=x>'
    alert = {
        **ALERT,
        **dict.fromkeys(("title", "source", "fingerprint"), attack),
        "labels": {attack: attack},
        "payload": {attack: [attack]},
        "decisions": [{**DECISION, **dict.fromkeys(("route", "state", "reason", "run_name"), attack)}],
    }
    for page in (alerts_page([alert], 0, {}), alert_page(alert)):
        found = Links(page)
        assert not found.tags & {"script", "b"}
        assert any(attack in words for words in found.words)


def test_an_empty_store_has_a_page():
    assert "No alert has come yet" in alerts_page([], 0, {})
