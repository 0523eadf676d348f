"""Who gets which revision: sticky keys, shares and feature flags."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_admin import ROW, V1, revision, table_server
from serving_process import until

from shipway.errors import InputError
from shipway.serving.revision import Order, Revision
from shipway.serving.routes import Routes
from shipway.serving.sticky import Sticky

KEYS = [f"user-{number}" for number in range(1500)]


def routes(shares: dict[str, int]) -> Routes:
    """Revisions named DIGEST-ANYTHING, in the order they were put there."""
    made = []
    for name, share in shares.items():
        found = Revision("flights", Order(name, Path(), "1"), name.split("-", maxsplit=1)[0] * 10)
        found.share = share
        made.append(found)
    return Routes(made)


def assigned(shares: dict[str, int]) -> dict[str, str]:
    table = routes(shares)
    found = {}
    for key in KEYS:
        chosen = table.choose(key)
        assert chosen is not None
        found[key] = chosen.id
    return found


@given(st.lists(st.integers(0, 100), min_size=2, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_growing_share_takes_keys_from_the_old_one_only(steps: list[int]) -> None:
    before = assigned({"old": 100 - min(steps), "new": min(steps)})
    for step in sorted(steps):
        after = assigned({"old": 100 - step, "new": step})
        assert {(before[key], after[key]) for key in KEYS if before[key] != after[key]} <= {("old", "new")}
        before = after
    assert before == assigned({"old": 100 - max(steps), "new": max(steps)})


@pytest.mark.parametrize("order", [("old", "new", "old-baseline"), ("old", "old-baseline", "new")])
def test_a_fresh_copy_takes_no_key_from_the_candidate(order: tuple[str, ...]) -> None:
    before: dict[str, str] = {}
    for step in (1, 5, 25, 40):
        shares = {"old": 100 - 2 * step, "new": step, "old-baseline": step}
        after = assigned({name: shares[name] for name in order})
        moved = {(before[key], after[key]) for key in before if before[key] != after[key]}
        assert moved <= {("old", "new"), ("old", "old-baseline"), ("old-baseline", "new")}
        counts = Counter(after.values())
        assert all(abs(counts[name] / len(KEYS) - share / 100) < 0.06 for name, share in shares.items())
        before = after


def test_two_candidates_meet_other_keys_first() -> None:
    first = {key for key, found in assigned({"old": 90, "one": 10}).items() if found == "one"}
    second = {key for key, found in assigned({"old": 90, "two": 10}).items() if found == "two"}
    assert len(first & second) < min(len(first), len(second)) / 2


def test_requests_without_a_key_follow_the_shares() -> None:
    table = routes({"a": 20, "b": 30, "c": 50})
    counts = Counter(found.id for _ in range(20_000) if (found := table.choose("")) is not None)
    assert all(abs(counts[name] / 20_000 - share) < 0.02 for name, share in {"a": 0.2, "b": 0.3, "c": 0.5}.items())
    assert routes({"a": 0}).choose("") is None
    assert routes({}).choose("x") is None


@pytest.mark.parametrize(
    ("setting", "headers", "payload", "key"),
    [
        ("header:X-User", [(b"x-user", b"7")], None, "7"),
        ("header:X-User", [], {"parameters": {"X-User": "7"}}, ""),
        ("parameter:user", [], {"parameters": {"user": 7}}, "7"),
        ("parameter:user", [], {"parameters": [7]}, ""),
        ("parameter:user", [], [7], ""),
        ("column:carrier", [], {"instances": [{"carrier": "AA"}, {"carrier": "BB"}]}, "AA"),
        ("column:carrier", [], {"instances": [7]}, ""),
        ("column:carrier", [], {"instances": []}, ""),
        ("column:carrier", [], {"instances": [{"carrier": {"a": 1}}]}, ""),
        ("column:carrier", [], {"inputs": [{"name": "carrier", "data": [["AA"], ["BB"]]}]}, "AA"),
        ("column:carrier", [], {"inputs": [{"name": "carrier", "data": []}]}, ""),
        ("column:carrier", [], {"inputs": 3}, ""),
    ],
)
def test_the_key_of_a_request(setting: str, headers: list[tuple[bytes, bytes]], payload: object, key: str) -> None:
    assert Sticky(setting).key(headers, payload) == key


@pytest.mark.parametrize("setting", ["", "user", "cookie:user", "header:", "header:a b"])
def test_a_malformed_setting_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match="header:NAME"):
        Sticky(setting)


@pytest.mark.slow
def test_a_caller_stays_with_its_revision_over_restarts(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", isolated=True)]
    seen: dict[str, str] = {}
    for share in (30, 60):
        with table_server(tmp_path, table, {"old": 100 - share, "new": share}, "--sticky", "header:x-user") as admin:
            for user in range(40):
                found = {
                    admin.server.post(V1, {"instances": [ROW]}, {"x-user": str(user)}).headers["x-shipway-revision"]
                    for _ in range(3)
                }
                assert len(found) == 1
                assert (seen.get(str(user)), *found) != ("new", "old")
                seen[str(user)] = found.pop()
    assert set(seen.values()) == {"old", "new"}


FLAGD = """
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType

def provider():
    return FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path={path!r})
"""


@pytest.mark.slow
def test_a_flag_steers_a_segment_and_whatever_it_gets_wrong_follows_the_shares(tmp_path: Path) -> None:
    project, flags = tmp_path / "project", tmp_path / "flags.json"
    project.mkdir()
    (project / "flags_of_ours.py").write_text(FLAGD.format(path=str(flags)))

    def write(targeting: object, state: str = "ENABLED") -> None:
        variants = {"none": "", "two": "2", "nine": "9"}
        flag = {"state": state, "variants": variants, "defaultVariant": "none", "targeting": targeting}
        (tmp_path / "next").write_text(json.dumps({"flags": {"version": flag}}))
        (tmp_path / "next").replace(flags)

    write({"if": [{"==": [{"var": "x-segment"}, "staff"]}, "two", "none"]})
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", isolated=True)]
    options = ["--flag", "version", "--flag-provider", "flags_of_ours.py:provider", "--sticky", "header:x-user"]
    told = {"SHIPWAY_PROJECT": str(project), "SHIPWAY_FLAG_ATTRIBUTE": "x-segment"}
    with table_server(tmp_path, table, {"old": 100}, *options, environment=told) as admin:

        def answered_by(**headers: str) -> str:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = admin.server.post(V1, {"instances": [ROW]}, given)
            assert answer.status == 200
            return answer.headers["x-shipway-revision"]

        def counts() -> dict[str, int]:
            found: dict[str, int] = admin.ask("GET", "").json()["flag"]
            return found

        assert answered_by() == "old"
        assert answered_by(x_segment="staff") == "new"
        assert answered_by(x_segment="others") == "old"
        assert counts() == {"steered": 1, "fallbacks": 0}
        # The provider reads its file anew: no deployment.
        write({"if": [{"==": [{"var": "targetingKey"}, "ann"]}, "two", "nine"]})
        until(lambda: answered_by(x_user="ann") == "new")
        before = counts()["fallbacks"]
        assert answered_by(x_user="bob") == "old"
        assert counts()["fallbacks"] == before + 1
        # What is mirrored to is never answered from.
        assert admin.shift({"old": 100}, {"revision": "new", "percent": 100}).status == 200
        assert answered_by(x_user="ann") == "old"
        assert admin.shift({"old": 100}).status == 200
        write(None, state="DISABLED")
        until(lambda: answered_by(x_user="ann") == "old")
        assert "follow the shares" in admin.server.log.read_text()


@pytest.mark.slow
def test_a_provider_that_hangs_or_raises_costs_no_answer(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "slow.py").write_text(
        "import time\n"
        "from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider\n"
        "def ask(flag, context):\n"
        "    if context.targeting_key == 'hang':\n"
        "        time.sleep(2)\n"
        "    raise RuntimeError('no')\n"
        "def provider():\n"
        "    flag = InMemoryFlag('a', {'a': '2'}, context_evaluator=ask)\n"
        "    return InMemoryProvider({'version': flag})\n"
    )
    options = ["--flag", "version", "--flag-provider", "slow.py:provider", "--sticky", "header:x-user"]
    told = {"SHIPWAY_PROJECT": str(project)}
    with table_server(tmp_path, [revision(tmp_path, "old", "1")], {"old": 100}, *options, environment=told) as admin:
        for user in ("hang", "hang", "other"):
            assert admin.server.post(V1, {"instances": [ROW]}, {"x-user": user}).status == 200
        assert admin.ask("GET", "").json()["flag"] == {"steered": 0, "fallbacks": 3}
