"""Keeps one GitHub issue for each model and cause: opened once, then brought up to date and commented on.

The issue is found by its labels and a hidden marker in its text, which also holds the keys of what it was told, so that
an alert that is sent again adds nothing. One that a person has closed stays closed: the next alert opens another.
REST API 2022-11-28 (https://docs.github.com/en/rest/issues).
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from shipway.lineage.digests import digest_bytes
from shipway.notify.alerts import Alert
from shipway.notify.client import Answer, ask
from shipway.notify.delivery import Deadline, DeliveryError, persist
from shipway.notify.secrets import token
from shipway.spec.watch import GitHubIssues

_TITLES = {
    "rejected": "data or model rejected",
    "failed": "a run failed",
    "drift": "production has drifted from training",
    "rollback": "trouble with a rollout",
    "approval": "approval wanted",
    "live": "new version live",
}
_HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
_END = "<!-- /shipway -->"
_TOLD = re.compile(r"<!-- shipway-told: (\d+) times; ([0-9a-f ]*) -->")
# Keys that an issue remembers, and pages of 100 issues that are looked through for it.
_MOST_KEYS = 100
_MOST_PAGES = 10
_LONGEST_FACTS = 20_000
_LONGEST_TEXT = 8_000


def tell_issue(alert: Alert, section: GitHubIssues, deadline: Deadline) -> str:
    """Opens the issue of an alert's model and cause, or brings the open one up to date and comments on it.

    Args:
        alert: What happened.
        section: The spec's section notify.github.
        deadline: When it is too late.

    Returns:
        Which issue, in a few words.

    Raises:
        DeliveryError: GitHub did not take it.
    """
    bearer = token(section.token, deadline)
    if not bearer:
        raise DeliveryError(f"variable {section.token}, its token, is not set")
    repository = _Repository(section, bearer, deadline)
    return persist(lambda: repository.tell(alert), deadline)


@dataclass(slots=True)
class _Repository:
    section: GitHubIssues
    token: str = field(repr=False)
    deadline: Deadline
    # Since when a comment is owed; one that got no answer may be there all the same.
    owed: dt.datetime | None = None

    def tell(self, alert: Alert) -> str:
        issue = self._find(_marker(alert))
        if issue is None:
            made = self._ask("POST", "", {**_issue(alert), "labels": list(self.section.labels)})
            return f"opened issue {_number(made.body)}"
        number, before = _number(issue), str(issue.get("body") or "")
        times, keys = _told(before)
        if self.owed:
            if not self._has_comment(number, _key(alert), self.owed):
                self._comment(number, alert)
        elif _key(alert) in keys:
            return f"has issue {number}, which knows of it already"
        else:
            self._ask("PATCH", f"/{number}", {"body": _merged(before, _body(alert, times, keys))})
            self.owed = dt.datetime.now(dt.UTC)
            self._comment(number, alert)
        return f"told issue {number} again"

    def _comment(self, number: int, alert: Alert) -> None:
        self._ask("POST", f"/{number}/comments", {"body": f"{_account(alert)}\n<!-- shipway-key: {_key(alert)} -->"})

    def _has_comment(self, number: int, key: str, owed: dt.datetime) -> bool:
        # GitHub's clock may be behind this one.
        since = (owed - dt.timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
        asked: dict[str, str | int] = {"since": since, "per_page": 100}
        found = self._ask("GET", f"/{number}/comments", parameters=asked).body
        return isinstance(found, list) and any(f"shipway-key: {key} " in str(comment) for comment in found)

    def _find(self, marker: str) -> dict[str, Any] | None:
        """Returns the oldest open issue with the marker.

        Labels narrow the search; they are no proof, as a token may lack the right to set them, and people take them
        off.
        """
        labels = ",".join(self.section.labels)
        for query in [{"labels": labels}, {}] if labels else [{}]:
            found = [issue for issue in self._open(query) if marker in str(issue.get("body") or "")]
            if found:
                return min(found, key=_number)
        return None

    def _open(self, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        parameters: dict[str, str | int] = {"state": "open", "per_page": 100, **query}
        url = ""
        for _ in range(_MOST_PAGES):
            answer = self._ask("GET", url, parameters=None if url else parameters)
            if not isinstance(answer.body, list):
                raise DeliveryError("answered what is no list of issues; is notify.github.api the address of its API?")
            yield from (issue for issue in answer.body if isinstance(issue, dict) and "pull_request" not in issue)
            url = answer.following
            if not url:
                return

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        parameters: dict[str, str | int] | None = None,
    ) -> Answer:
        root = f"{self.section.api.rstrip('/')}/repos/{self.section.repository}/issues"
        url = path if "://" in path else root + path
        if urlsplit(url)[:2] != urlsplit(root)[:2]:
            # The token goes to nobody else.
            raise DeliveryError("it named a next page on another host, which was not followed")
        try:
            return ask(method, url, self.deadline, token=self.token, headers=_HEADERS, body=body, parameters=parameters)
        except DeliveryError as error:
            what = f"{error} ({method} of issues of {self.section.repository})"
            raise DeliveryError(what, passes=error.passes, wait=error.wait) from error


def _number(issue: Any) -> int:
    number = issue.get("number") if isinstance(issue, dict) else None
    if not isinstance(number, int):
        raise DeliveryError("answered what is no issue; is notify.github.api the address of its API?")
    return number


def _marker(alert: Alert) -> str:
    return f"<!-- shipway-issue model={alert.name} cause={alert.cause} -->"


def _key(alert: Alert) -> str:
    return digest_bytes(alert.identity.encode()).removeprefix("sha256:")[:12]


def _told(body: str) -> tuple[int, list[str]]:
    """Returns how often an issue was told, and the keys that it remembers."""
    found = _TOLD.search(body)
    return (int(found[1]), found[2].split()) if found else (1, [])


def _issue(alert: Alert) -> dict[str, str]:
    return {"title": f"{alert.name}: {_TITLES.get(alert.cause, alert.kind)}", "body": _body(alert, 0, [])}


def _body(alert: Alert, times: int, keys: list[str]) -> str:
    """Returns the part of an issue's text that is Shipway's, between its two markers."""
    kept = " ".join([*keys, _key(alert)][-_MOST_KEYS:])
    return "\n".join(
        [
            _marker(alert),
            _account(alert),
            f"Alerts so far: {times + 1}; the last one is shown above. Close this issue when it is dealt with: the "
            "next alert opens another.",
            f"<!-- shipway-told: {times + 1} times; {kept} -->",
            _END,
        ]
    )


def _account(alert: Alert) -> str:
    """Returns an alert as Markdown; what comes from data stands in code, where it is no markup and mentions nobody."""
    moment = dt.datetime.fromtimestamp(alert.time, dt.UTC)
    facts = json.dumps(alert.plain()["facts"], indent=2, ensure_ascii=False, sort_keys=True)
    shown = facts if len(facts) <= _LONGEST_FACTS else f"{facts[:_LONGEST_FACTS]}\n..."
    return (
        f"**{alert.severity}**, {alert.kind.replace('_', ' ')}, {moment:%Y-%m-%d %H:%M:%S} UTC\n\n"
        f"{_code(alert.text[:_LONGEST_TEXT])}\n"
        f"<details><summary>Facts</summary>\n\n{_code(shown)}\n</details>\n"
    )


def _code(text: str) -> str:
    """Returns text in a fence longer than any in it, and with nothing that ends Shipway's part of the issue."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.replace('<!--', '<! --')}\n{fence}\n"


def _merged(before: str, ours: str) -> str:
    """Returns an issue's text with Shipway's part renewed, and what people wrote around it kept."""
    begin, end = before.find("<!-- shipway-issue "), before.find(_END)
    if begin < 0 or end < begin:
        return ours
    return before[:begin] + ours + before[end + len(_END) :]
