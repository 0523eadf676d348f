"""What a body may hold, and how often one may come."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipway.serving.limits import Refusal
from shipway.triggers.limits import Rate, read_json


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"hello", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": Infinity}', "not JSON"),
        (b'{"a": 1e400}', "not JSON"),
        (b'{"a": -1e400}', "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"a": 18446744073709551616}', "more than 64 bits"),
        (b'{"a": -9223372036854775809}', "more than 64 bits"),
        (b'{"a": [1e300]}', "more than 64 bits"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a\\u0000": 1}', "NUL"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": 1} {"a": 2}', "not JSON"),
        (b"[" * 12 + b"]" * 12, "deeper than 10 levels"),
        (b'{"a":' * 12 + b"1" + b"}" * 12, "deeper than 10 levels"),
        (b"[" * 100_000, "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused(body, said):
    with pytest.raises(Refusal, match=said) as caught:
        read_json(body, 10)
    assert caught.value.status == 400
    assert len(caught.value.reason) < 300


def test_what_can_be_kept_is_as_it_came():
    value = {"a": [1, 2.5, -(1 << 63), (1 << 64) - 1, None, True, "\\u0000", {"b": {}}], "é": "\u2028"}
    assert read_json(json.dumps(value).encode(), 10) == value
    assert read_json(b"[" * 10 + b"]" * 10, 10) == read_json(b"[" * 10 + b"]" * 10, 20)


REFUSED = object()


def kept(body: bytes) -> object:
    try:
        return read_json(body, 8)
    except Refusal:
        return REFUSED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_value_is_kept_exactly_or_refused(value):
    body = json.dumps(value, ensure_ascii=True).encode()
    found = kept(body)
    assert found is REFUSED or found == value
    assert found is REFUSED or orjson.loads(orjson.dumps(found)) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    found = kept(body)
    assert found is REFUSED or found == json.loads(body)


def test_a_rate_lets_a_seconds_worth_through_at_once_and_then_its_rate():
    now = [100.0]
    rate = Rate(10, clock=lambda: now[0])
    assert [rate.take() for _ in range(10)] == [0.0] * 10
    assert rate.take() == pytest.approx(0.1)
    now[0] += 0.25
    assert [rate.take() > 0 for _ in range(4)] == [False, False, True, True]
    now[0] += 1000
    assert sum(rate.take() == 0 for _ in range(100)) == 10


def test_a_slow_rate_still_lets_one_through():
    now = [0.0]
    rate = Rate(1 / 3600, clock=lambda: now[0])
    assert rate.take() == 0
    assert rate.take() == pytest.approx(3600)
    now[0] += 3601
    assert rate.take() == 0
