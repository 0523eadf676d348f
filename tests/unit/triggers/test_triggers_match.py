"""Whether a route is for an alert, and what a push has changed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trigger_parts import alert, route, routes

from shipway.errors import InputError
from shipway.triggers.changes import changed_paths, what_counts
from shipway.triggers.expression import expression, tame, text_of
from shipway.triggers.match import mismatch
from shipway.triggers.routes import Paths


@pytest.mark.parametrize(
    ("on", "told"),
    [
        ({}, ""),
        ({"source": ["events"]}, ""),
        ({"kind": ["data", "alert"]}, ""),
        ({"kind": "data"}, "kind is alert, not data"),
        ({"labels": {"kind": "drift"}}, ""),
        ({"labels": {"kind": ["checked", "drift"]}}, ""),
        ({"labels": {"kind": "checked"}}, "label kind is 'drift', not checked"),
        ({"labels": {"kind": "/dr.*/"}}, ""),
        ({"labels": {"kind": "/dr/"}}, "label kind is 'drift', not /dr/"),
        ({"labels": {"kind": "drift", "model": "flights"}}, "label model is '', not flights"),
        ({"labels": {"model": ""}}, ""),
    ],
)
def test_conditions(tmp_path: Path, on: dict[str, Any], told: str) -> None:
    (found,) = routes(tmp_path, route(on=on)).routes
    assert mismatch(alert(), found) == told


def test_a_long_label_meets_no_pattern(tmp_path: Path) -> None:
    (found,) = routes(tmp_path, route(on={"labels": {"kind": "/(a+)+b/"}})).routes
    assert mismatch(alert(labels={"kind": "a" * 5000}), found).startswith("label kind is 'aaaa")


def push(*commits: dict[str, list[str]]) -> dict[str, Any]:
    return {"commits": [{"added": [], "modified": [], "removed": [], **commit} for commit in commits]}


DOCS = {"ignore": ["docs/**", "*.md"]}


@pytest.mark.parametrize(
    ("paths", "payload", "for_it"),
    [
        (DOCS, push({"modified": ["docs/a/b.txt", "README.md", "model/notes.md"]}), False),
        (DOCS, push({"modified": ["docs/a.txt"]}, {"removed": ["model.py"]}), True),
        (DOCS, push({}), False),
        # What does not say what it changed may have changed everything.
        (DOCS, {}, True),
        (DOCS, {"commits": []}, True),
        (DOCS, {"commits": [{"added": ["docs/a"]}]}, True),
        (DOCS, {"commits": "all"}, True),
        (DOCS, push(*[{"added": ["docs/a"]}] * 2048), True),
        ({"only": ["model/**"]}, push({"added": ["model/a.py"]}), True),
        ({"only": ["model/**"]}, push({"added": ["models/a.py"]}), False),
        ({"only": ["model/*.py"]}, push({"added": ["model/deep/a.py"]}), False),
        ({**DOCS, "changed": "files"}, {"files": ["docs/a"]}, False),
        ({**DOCS, "changed": "files"}, {"files": ["a"]}, True),
        ({**DOCS, "changed": "files"}, {"files": "docs/a"}, True),
    ],
)
def test_a_push_that_touches_only_docs_starts_nothing(
    tmp_path: Path, paths: dict[str, Any], payload: dict[str, Any], for_it: bool
) -> None:
    (found,) = routes(tmp_path, route(on={}, paths=paths)).routes
    told = mismatch(alert(kind="code", payload=payload), found)
    assert (told == "") is for_it
    assert for_it or told.startswith("only files that do not count were changed")
    # Paths are about code: what else comes does not know of them.
    assert mismatch(alert(kind="data", payload=payload), found) == ""


@given(st.lists(st.text(min_size=1)), st.lists(st.text(min_size=1)))
def test_any_glob_and_any_path(globs: list[str], changed: list[str]) -> None:
    left = what_counts(changed, Paths(only=[], ignore=globs, changed=None))
    assert set(left) <= set(changed)
    assert what_counts(changed, Paths(only=["**"], ignore=["**"], changed=None)) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_payload_is_read_for_changes(payload: Any) -> None:
    found = changed_paths({"commits": payload})
    assert found is None or all(isinstance(path, str) for path in found)


@pytest.mark.parametrize("value", [3, -2.5, True, "2014-01-01", "2014-01-01T10:00:00+01:00", "a_b c.d-e", "AA,UA"])
def test_tame_values_pass(value: Any) -> None:
    assert tame(value, "a") == value


@pytest.mark.parametrize(
    "value",
    [
        None, "", [], {}, float("nan"), float("inf"), 10**400, "../etc/passwd", "/etc", "os:system", "a.py:build",
        "a\nb", "{{a}}", "${a}", "$(id)", "`id`", "a'b", 'a"b', "[1]", "x" * 201, "a;b", "a|b", "a&b", "<b>", "\x00",
        ".", "..",
    ],
)  # fmt: skip
def test_wild_values_do_not(value: Any) -> None:
    with pytest.raises(InputError, match=r"^'data\.x' gives .*; expected a number, a moment, or"):
        tame(value, "data.x")


def test_expressions() -> None:
    assert expression("'a'").is_literal
    assert not expression("a.b").is_literal
    assert expression("a[?b > `1`].c | [0]").find({"a": [{"b": 1, "c": "x"}, {"b": 2, "c": "y"}]}) == "y"
    with pytest.raises(InputError, match="does not fit the payload"):
        expression("length(a)").find({"a": 1})
    # These raise what is no error of jmespath's own; the first does for the empty payload as well.
    for text, payload in (
        ("contains('main, release', a)", {"a": 1}),
        ("contains(a, b)", {"a": "x", "b": 1}),
        ("a < b", {"a": "x", "b": 1}),
        ("merge(a, b)", {"a": {}, "b": 1}),
        ("ceil(to_number(a))", {"a": "nan"}),
        ("a[::0]", {"a": [1]}),
    ):
        with pytest.raises(InputError, match="does not fit the payload"):
            expression(text).find(payload)
    with pytest.raises(InputError, match="at most 500 characters"):
        expression("a" * 501)
    assert [text_of(value) for value in (None, True, 1, 1.5, "x")] == ["", "true", "1", "1.5", "x"]
    with pytest.raises(InputError, match="found a mapping"):
        text_of({})
