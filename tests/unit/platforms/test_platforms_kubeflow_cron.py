"""Cron expressions for Kubeflow: five fields in, six out, and a line that names the field where one is wrong."""

import datetime as dt

import pytest

from shipway.errors import InputError
from shipway.platforms.cron import check_utc, kubeflow_cron, next_fire


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * *", "0 0 3 * * *"),
        ("*/15 9-17 * * MON-FRI", "0 */15 9-17 * * 1-5"),
        ("0 0 1,15 JAN,jul *", "0 0 0 1,15 1,7 *"),
        ("0 3 * * 7", "0 0 3 * * 0"),
        ("0 3 * * 5-7", "0 0 3 * * 5,6,0"),
        ("0 3 * * 1-7/2", "0 0 3 * * 1,3,5,0"),
        ("5/20 * ? * *", "0 5/20 * ? * *"),
        ("30 0 3 * * 1", "30 0 3 * * 1"),
        ("  0   3 * * * ", "0 0 3 * * *"),
        ("@daily", "0 0 0 * * *"),
        ("@weekly", "0 0 0 * * 0"),
        ("0 0 29 2 *", "0 0 0 29 2 *"),
    ],
)
def test_an_expression_gets_its_seconds(expression: str, expected: str) -> None:
    assert kubeflow_cron(expression) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", "found 0 fields"),
        ("0 3 * *", "expected five fields .* found 4 fields"),
        ("0 0 3 * * * 2026", "found 7 fields"),
        ("@reboot", "found 1 field$"),
        ("60 3 * * *", "minute: found '60': 60 is out of range; expected 0 to 59"),
        ("0 24 * * *", "hour: found '24': 24 is out of range; expected 0 to 23"),
        ("0 3 0 * *", "day of month: found '0'"),
        ("0 3 * 13 *", "month: found '13': 13 is out of range; expected 1 to 12 or jan, feb"),
        ("0 3 * * 8", "day of week: found '8'"),
        ("0 3 * * fri-mon", "day of week: found 'fri-mon': fri comes after mon; write the range as two parts"),
        ("61 0 3 * * *", "second: found '61'"),
        ("a 3 * * *", "minute: found 'a': it is no number, name, range or step"),
        ("0 3 L * *", "day of month: found 'l': Kubeflow knows no L, W or #"),
        ("0 3 15w * *", "Kubeflow knows no L, W or #"),
        ("0 3 * * 1#2", "Kubeflow knows no L, W or #"),
        ("*/0 3 * * *", "a step is at least 1"),
        ("-5 3 * * *", "minute: found '-5'"),
        ("1,,2 3 * * *", "minute: found ''"),
        ("*-5 3 * * *", "a range is between two numbers"),
        ("0 3 31 2 *", "it never comes true"),
        ("0 3 */2 * 1", "cron programs disagree"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_field(expression: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as raised:
        kubeflow_cron(expression)
    assert repr(expression) in str(raised.value)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 0 3 * * *", "2026-01-02T03:00:00+00:00"),
        ("0 0 3 * * 0", "2026-01-04T03:00:00+00:00"),
        ("30 59 23 31 12 ?", "2026-12-31T23:59:30+00:00"),
        ("0 0 0 13 * 5", "2026-01-02T00:00:00+00:00"),
    ],
)
def test_the_next_moment_is_the_one_people_expect(cron: str, expected: str) -> None:
    assert next_fire(cron, dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)).isoformat() == expected


def test_other_time_zones_are_refused() -> None:
    check_utc("UTC")
    with pytest.raises(
        InputError, match="'Europe/Berlin': Kubeflow reads every schedule in its cluster's one time zone"
    ):
        check_utc("Europe/Berlin")
