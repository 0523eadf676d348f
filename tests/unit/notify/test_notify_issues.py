"""One GitHub issue for each model and cause, over a real client and a server that answers as GitHub's API does."""

import json

import pytest
from notify_stand_ins import TOKEN, Reply

from shipway.notify import delivery
from shipway.notify.alerts import Alert
from shipway.notify.send import tell
from shipway.spec import dump_section
from shipway.spec.watch import NotifySection


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("SHIPWAY_GITHUB_TOKEN", f"{TOKEN}\n")
    monkeypatch.setattr(delivery, "_PAUSES", (0.01, 0.01, 0.01))


def section(github, **parts):
    return dump_section(
        NotifySection.model_validate({"github": {"repository": "acme/models", "api": github.url, **parts}})
    )


def alert(key, kind="drift", name="flights", text="", **facts):
    text = text or f"{name} version 3: retrain ({key})"
    return Alert(name, kind, "warning", text, 1.7e9, key, {"version": "3", **facts})


def test_the_first_alert_opens_an_issue(github, capsys):
    tell(alert("k1", gauges={"drift_psi": {"delay": 0.31}}), section(github, labels=["shipway", "models"]))
    (issue,) = github.issues
    assert issue["title"] == "flights: production has drifted from training"
    assert [label["name"] for label in issue["labels"]] == ["shipway", "models"]
    assert "flights version 3: retrain (k1)" in issue["body"]
    assert '"delay": 0.31' in issue["body"]
    request = github.sent("POST")[0]
    assert request.headers["accept"] == "application/vnd.github+json"
    assert request.headers["x-github-api-version"] == "2022-11-28"
    assert request.headers["user-agent"].startswith("shipway/")
    assert "notify: GitHub opened issue 1" in capsys.readouterr().err


def test_the_next_ones_keep_it_up_to_date(github, capsys):
    for key in ("k1", "k2", "k3"):
        tell(alert(key), section(github))
    (issue,) = github.issues
    assert "(k3)" in issue["body"]
    assert "(k1)" not in issue["body"]
    assert "Alerts so far: 3;" in issue["body"]
    assert [("(k2)" in comment, "(k3)" in comment) for comment in github.comments[1]] == [(True, False), (False, True)]
    assert "notify: GitHub told issue 1 again" in capsys.readouterr().err


def test_the_same_alert_again_adds_nothing(github, capsys):
    for key in ("k1", "k2", "k1", "k2"):
        tell(alert(key), section(github))
    assert (len(github.issues), len(github.comments[1])) == (1, 1)
    assert "Alerts so far: 2;" in github.issues[0]["body"]
    assert "has issue 1, which knows of it already" in capsys.readouterr().err


def test_each_model_and_cause_has_its_own(github):
    told = [("flights", "drift"), ("flights", "failed"), ("flights-eu", "drift"), ("flights", "halted")]
    for count, (name, kind) in enumerate(told * 2):
        tell(alert(f"k{count}", kind, name), section(github))
    assert [issue["title"].partition(":")[0] for issue in github.issues] == [
        "flights",
        "flights",
        "flights-eu",
        "flights",
    ]
    assert [len(comments) for comments in github.comments.values()] == [1, 1, 1, 1]


def test_kinds_of_one_cause_share_an_issue(github):
    for kind in ("paused", "rolled_back"):
        tell(alert(kind, kind), section(github))
    assert len(github.issues) == 1


def test_one_that_a_person_closed_stays_closed(github):
    tell(alert("k1"), section(github))
    github.issues[0]["state"] = "closed"
    tell(alert("k2"), section(github))
    assert [issue["state"] for issue in github.issues] == ["closed", "open"]
    assert github.comments == {1: [], 2: []}


def test_what_people_wrote_around_it_stays(github):
    tell(alert("k1"), section(github))
    github.issues[0]["body"] = f"Ann looks at it.\n\n{github.issues[0]['body']}\n\nSee also the runbook."
    github.issues[0]["title"] = "Renamed"
    tell(alert("k2"), section(github))
    body = github.issues[0]["body"]
    assert body.startswith("Ann looks at it.\n\n<!-- shipway-issue")
    assert body.endswith("<!-- /shipway -->\n\nSee also the runbook.")
    assert ("(k1)" in body, "(k2)" in body) == (False, True)
    assert github.issues[0]["title"] == "Renamed"


def test_it_is_found_on_a_later_page_and_without_its_label(github):
    tell(alert("k1"), section(github))
    github.issues[0]["labels"] = []
    for number in range(7):
        github.add(f"issue {number} of somebody", "shipway")
    github.add("<!-- shipway-issue model=flights cause=drift -->", pull_request={"url": "x"})
    github.add(None)
    github.per_page = 2
    tell(alert("k2"), section(github))
    assert len(github.comments[1]) == 1
    assert len(github.issues) == 10


def test_a_token_that_may_not_label_opens_one_all_the_same(github):
    github.may_label = False
    for key in ("k1", "k2"):
        tell(alert(key), section(github))
    assert (len(github.issues), len(github.comments[1])) == (1, 1)


def test_of_two_the_older_is_kept(github):
    tell(alert("k1"), section(github))
    github.add(github.issues[0]["body"], "shipway")
    tell(alert("k2"), section(github))
    assert [len(github.comments[number]) for number in (1, 2)] == [1, 0]


def test_what_comes_from_data_is_no_markup(github):
    evil = "@acme/all ```\n</details><script> <!-- /shipway --> <!-- shipway-told: 9 times;  -->"
    tell(alert("k1", text=evil, drifted=[evil]), section(github))
    tell(alert("k2", text=evil), section(github))
    body = github.issues[0]["body"]
    assert body.count("<!-- /shipway -->") == body.count("<!-- shipway-told") == 1
    assert body.endswith("<!-- /shipway -->")
    assert "Alerts so far: 2;" in body
    fence, _, rest = body.partition("@acme/all")[0].rpartition("````")
    assert (fence.endswith("\n"), rest) == (True, "text\n")


def test_facts_and_texts_are_cut_to_what_github_takes(github):
    tell(alert("k1", text="x" * 200_000, drifted=["y" * 200_000]), section(github))
    assert len(github.issues[0]["body"]) < 65_536


def test_an_issue_remembers_enough_and_not_everything(github):
    for count in range(110):
        tell(alert(f"k{count}"), section(github))
    tell(alert("k20"), section(github))
    body = github.issues[0]["body"]
    assert "Alerts so far: 110;" in body
    assert len(body) < 10_000


@pytest.mark.parametrize("faults", [[Reply(502), None], ["drop", None], [Reply(200, b"[{"), None]])
def test_a_search_that_fails_never_opens_a_second_one(faults, github, capsys):
    tell(alert("k1"), section(github))
    github.faults = list(faults)
    tell(alert("k2"), section(github))
    assert len(github.issues) == 1
    assert "notify: GitHub" in capsys.readouterr().err


def test_an_issue_that_was_made_without_an_answer_is_found(github, monkeypatch):
    """The client never learns of the issue that it opened; trying again finds it."""
    answer = github.answer
    monkeypatch.setattr(
        github, "answer", lambda request: Reply(502) if answer(request).status == 201 else answer(request)
    )
    tell(alert("k1"), section(github, labels=[]))
    assert len(github.issues) == 1
    assert github.comments == {1: []}


def test_a_comment_that_got_no_answer_is_not_written_twice(github, monkeypatch, capsys):
    tell(alert("k1"), section(github))
    answer = github.answer
    monkeypatch.setattr(
        github, "answer", lambda request: Reply(502) if answer(request).status == 201 else answer(request)
    )
    tell(alert("k2"), section(github))
    assert len(github.comments[1]) == 1
    assert "notify: GitHub told issue 1 again" in capsys.readouterr().err


def test_a_comment_that_failed_is_written_at_the_next_try(github):
    tell(alert("k1"), section(github))
    github.faults = [None, None, Reply(500)]
    tell(alert("k2"), section(github))
    assert len(github.comments[1]) == 1
    assert "Alerts so far: 2;" in github.issues[0]["body"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, {"message": "Bad credentials"}), "answered 401: Bad credentials (GET of issues of acme/models)"),
        (Reply(403, {"message": "API rate limit exceeded"}), "answered 403: API rate limit exceeded"),
        (Reply(404, {"message": "Not Found"}), "answered 404: Not Found"),
        (Reply(410, {"message": "Issues are disabled"}), "answered 410: Issues are disabled"),
        (Reply(301, headers={"Location": "https://example.com"}), "answered 301: it has moved"),
        (Reply(200, {"an": "object"}), "answered what is no list of issues"),
        (Reply(200, b"<html>a proxy's page</html>"), "answered what is no list of issues"),
        (Reply(200, b"[" * 100_000), "answered what is no list of issues"),
    ],
)
def test_a_refusal_is_named_in_one_line_without_the_token(reply, words, github, capsys):
    github.always = reply
    tell(alert("k1"), section(github))
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("notify:")]
    assert line.startswith(f"notify: GitHub could not be told: {words}")
    assert TOKEN not in said


def test_a_made_issue_that_is_none_is_said(github, capsys):
    github.faults = [None, None, Reply(201, ["?"])]
    tell(alert("k1"), section(github))
    assert "answered what is no issue" in capsys.readouterr().err


def test_the_token_goes_to_no_other_host(github, hook, capsys):
    github.faults = [Reply(200, [], {"Link": f'<{hook.url}/page2>; rel="next"'})]
    tell(alert("k1"), section(github))
    assert "another host, which was not followed" in capsys.readouterr().err
    assert hook.requests == []


def test_without_a_token_github_is_not_asked(github, monkeypatch, capsys):
    monkeypatch.delenv("SHIPWAY_GITHUB_TOKEN")
    tell(alert("k1"), section(github))
    assert github.requests == []
    assert "variable SHIPWAY_GITHUB_TOKEN, its token, is not set" in capsys.readouterr().err


def test_only_wanted_causes_open_issues(github):
    tell(alert("k1", "live"), section(github))
    tell(alert("k2", "checked"), section(github))
    assert github.requests == []


def test_a_waiting_time_that_github_asks_for_is_kept(github):
    github.faults = [Reply(403, {"message": "secondary rate limit"}, {"Retry-After": "1"})]
    tell(alert("k1"), section(github))
    assert json.loads(github.sent("POST")[0].body)["labels"] == ["shipway"]
