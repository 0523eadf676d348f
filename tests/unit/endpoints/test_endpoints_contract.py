"""The contract of endpoints, held by each kind of them; see `contract.py`."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract import SUBJECTS, Fault, Subject

from shipway.endpoints.protocol import (
    ConflictError,
    Endpoint,
    EndpointStatus,
    NotReadyError,
    UnsupportedError,
    revision_id,
)
from shipway.errors import DigestMismatchError, InputError, NotBlessedError, ShipwayError

pytestmark = pytest.mark.slow


@pytest.fixture(params=list(SUBJECTS))
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with SUBJECTS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def endpoint(subject: Subject) -> Endpoint:
    return subject.endpoint


def put(subject: Subject, version: str) -> str:
    """Stages a good version and returns its revision's id."""
    release = subject.release(version)
    subject.endpoint.stage(release)
    return revision_id(release.version, release.digest)


def serve(subject: Subject, version: str = "1") -> str:
    """Stages a good version, gives it all traffic, and returns its revision's id."""
    revision = put(subject, version)
    subject.endpoint.shift({revision: 100})
    return revision


def shares(status: EndpointStatus) -> dict[str, int]:
    return {revision.id: revision.share for revision in status.revisions}


def mirrors(status: EndpointStatus) -> dict[str, int]:
    return {revision.id: revision.mirror for revision in status.revisions if revision.mirror}


def same(one: EndpointStatus, other: EndpointStatus) -> bool:
    """Tells whether nothing has changed between two looks."""
    return (one.generation, one.record, shares(one), mirrors(one)) == (
        other.generation,
        other.record,
        shares(other),
        mirrors(other),
    )


def test_an_endpoint_that_never_was_serves_nothing(endpoint: Endpoint) -> None:
    status = endpoint.status()
    assert (status.name, status.revisions, status.record, status.live) == ("flights", (), "", None)
    assert endpoint.name == "flights"
    assert endpoint.lag_seconds >= 0


def test_a_revision_is_staged_without_traffic_and_ready(subject: Subject, endpoint: Endpoint) -> None:
    release = subject.release("1")
    before = endpoint.status()
    after = endpoint.stage(release)
    (revision,) = after.revisions
    assert revision.id == revision_id("1", release.digest)
    assert (revision.version, revision.digest, revision.share) == ("1", release.digest, 0)
    assert (revision.ready, revision.reason, revision.mirror) == (True, "", 0)
    assert after.live is None
    assert after.generation != before.generation
    assert same(endpoint.status(), after)


def test_all_traffic_goes_to_the_first_revision_and_the_second_gets_none(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    status = endpoint.status()
    assert shares(status) == {old: 100, new: 0}
    assert status.live is not None
    assert status.live.id == old
    assert all(revision.ready for revision in status.revisions)


def test_two_revisions_of_one_version_stand_side_by_side(subject: Subject, endpoint: Endpoint) -> None:
    release = subject.release("1")
    stable = serve(subject, "1")
    baseline = revision_id("1", release.digest, "baseline")
    endpoint.stage(release, baseline)
    status = endpoint.shift({stable: 50, baseline: 50})
    assert shares(status) == {stable: 50, baseline: 50}


def test_every_change_is_idempotent(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    staged = endpoint.status()
    assert same(endpoint.stage(subject.release("2")), staged)
    shifted = endpoint.shift({old: 95, new: 5})
    assert same(subject.endpoint.shift({old: 95, new: 5}), shifted)
    assert same(endpoint.stage(subject.release("2")), shifted)
    back = endpoint.shift({old: 100})
    assert same(endpoint.shift({old: 100, new: 0}), back)
    gone = endpoint.retire(new)
    assert shares(gone) == {old: 100}
    assert same(subject.endpoint.retire(new), gone)
    kept = endpoint.write_record("one")
    assert same(endpoint.write_record("one"), kept)


def test_a_release_with_a_fault_is_refused_and_changes_nothing(subject: Subject, endpoint: Endpoint) -> None:
    serve(subject, "1")
    before = endpoint.status()
    faults: list[tuple[Fault, type[ShipwayError], str]] = [
        ("unblessed", NotBlessedError, ""),
        ("other blessing", NotBlessedError, ""),
        ("changed bytes", DigestMismatchError, ""),
        ("does not load", NotReadyError, "predicts shape"),
    ]
    for number, (fault, error, reason) in enumerate(faults, start=2):
        with pytest.raises(error, match=rf"flights version {number}") as caught:
            endpoint.stage(subject.release(str(number), fault))
        assert reason in str(caught.value)
        after = endpoint.status()
        assert shares(after) == shares(before), fault
        assert after.live is not None
        assert after.live.ready


def test_shares_that_cannot_be_are_refused(subject: Subject, endpoint: Endpoint) -> None:
    old, new = serve(subject, "1"), put(subject, "2")
    before = endpoint.status()
    for asked in ({}, {old: 99}, {old: 60, new: 60}, {old: 110, new: -10}, {old: 50, "nobody": 50}):
        with pytest.raises(InputError):
            endpoint.shift(asked)
        assert same(endpoint.status(), before), asked


def test_a_canary_walks_to_all_of_the_traffic(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    for percent in (1, 25, 100):
        status = endpoint.shift({old: 100 - percent, new: percent})
        assert shares(status) == {old: 100 - percent, new: percent}
        assert same(subject.endpoint.status(), status)
    assert endpoint.retire(old).live == endpoint.status().revision(new)
    assert shares(endpoint.status()) == {new: 100}


def test_a_revision_that_is_not_ready_gets_no_traffic(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    subject.break_revision(new)
    broken = endpoint.status().revision(new)
    assert broken is not None
    assert not broken.ready
    assert broken.reason
    with pytest.raises(NotReadyError, match=new):
        endpoint.shift({old: 90, new: 10})
    after = endpoint.status()
    assert shares(after) == {old: 100, new: 0}
    assert after.live is not None
    assert after.live.ready
    assert shares(endpoint.retire(new)) == {old: 100}


def test_traffic_comes_back_from_a_revision_that_broke(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    endpoint.shift({old: 75, new: 25})
    subject.break_revision(new)
    status = endpoint.shift({old: 100})
    assert shares(status) == {old: 100, new: 0}
    assert status.live is not None
    assert status.live.ready


def test_what_was_decided_upon_an_older_state_is_refused(subject: Subject) -> None:
    mine, theirs = subject.endpoint, subject.endpoint
    old = serve(subject, "1")
    new = put(subject, "2")
    seen = mine.status().generation
    now = theirs.shift({old: 90, new: 10}, expect=seen)
    with pytest.raises(ConflictError):
        mine.shift({old: 50, new: 50}, expect=seen)
    with pytest.raises(ConflictError):
        mine.stage(subject.release("3"), expect=seen)
    with pytest.raises(ConflictError):
        mine.retire(new, expect=seen)
    with pytest.raises(ConflictError):
        mine.write_record("mine", expect=seen)
    if subject.mirrors:
        with pytest.raises(ConflictError):
            mine.mirror(new, 10, expect=seen)
    assert same(mine.status(), now)
    assert shares(mine.shift({old: 50, new: 50}, expect=now.generation)) == {old: 50, new: 50}


def test_of_two_controllers_one_wins(subject: Subject) -> None:
    serve(subject, "1")
    seen = subject.endpoint.status().generation

    def take(who: str) -> str:
        try:
            return subject.endpoint.write_record(who, expect=seen).record
        except ConflictError:
            return ""

    with ThreadPoolExecutor(4) as pool:
        won = [who for who in pool.map(take, ["a", "b", "c", "d"]) if who]
    assert won == [subject.endpoint.status().record]


def test_the_record_is_kept_through_every_change(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    record = '{"lease": "ä", "memory": "' + "x" * 30_000 + '"}'
    written = endpoint.write_record(record)
    assert written.record == record
    new = put(subject, "2")
    endpoint.shift({new: 100})
    endpoint.retire(old)
    assert subject.endpoint.status().record == record
    cleared = endpoint.write_record("")
    assert cleared.record == ""
    assert cleared.generation != written.generation
    with pytest.raises(InputError, match="32 KiB"):
        endpoint.write_record("x" * 33_000)


def test_a_revision_with_traffic_is_not_retired(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    status = endpoint.shift({old: 99, new: 1})
    for revision in (old, new):
        with pytest.raises(InputError, match=revision):
            endpoint.retire(revision)
    assert same(endpoint.status(), status)


def test_one_revision_is_mirrored_to_or_the_endpoint_says_why_not(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    if not subject.mirrors:
        with pytest.raises(UnsupportedError):
            endpoint.mirror(new, 50)
        return
    on = endpoint.mirror(new, 50)
    assert mirrors(on) == {new: 50}
    assert shares(on) == {old: 100, new: 0}
    assert same(endpoint.mirror(new, 50), on)
    third = put(subject, "3")
    assert mirrors(endpoint.mirror(third, 100)) == {third: 100}
    with pytest.raises(InputError, match=old):
        endpoint.mirror(old, 10)
    with pytest.raises(InputError, match="nobody"):
        endpoint.mirror("nobody", 10)
    with pytest.raises(InputError):
        endpoint.mirror(new, 101)
    assert mirrors(endpoint.mirror(third, 0)) == {}
    endpoint.mirror(new, 100)
    assert mirrors(endpoint.shift({old: 90, new: 10})) == {}
    endpoint.mirror(third, 100)
    assert mirrors(endpoint.retire(third)) == {}


def test_a_revision_without_traffic_can_be_asked(subject: Subject, endpoint: Endpoint) -> None:
    serve(subject, "1")
    new = put(subject, "2")
    if not subject.addresses:
        with pytest.raises(UnsupportedError):
            endpoint.predict(new, [subject.row])
        return
    answer = endpoint.predict(new, [subject.row, subject.row])
    assert answer.status == 200
    body = answer.json()
    assert len(body["predictions"]) == 2
    assert endpoint.predict(new, [{"no": "such column"}]).status == 400


def test_windows_count_what_each_revision_did(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    since = time.time() - 1.0
    subject.traffic(old, 20)
    new = put(subject, "2")
    endpoint.shift({new: 100})
    subject.traffic(new, 10, errors=3, milliseconds=30.0)
    found = endpoint.windows(since, time.time() + 1.0)
    assert found.keys() == {old, new}
    assert (found[old].requests, found[old].errors) == (20, 0)
    assert (found[new].requests, found[new].errors) == (10, 3)
    assert (found[new].revision, found[new].error_rate) == (new, 0.3)
    assert sum(found[old].latency) == 20
    assert sum(found[new].latency) == 7
    if subject.counts_latency:
        slow = found[new].quantile_ms(0.5)
        assert slow is not None
        assert slow >= 30.0
        assert found[new].slower_than(25.0) == 7


def test_a_revision_nobody_asked_has_a_window_of_zeros(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    found = endpoint.windows(time.time() - 3600.0, time.time() - 3000.0)
    assert found.keys() == {old, new}
    assert all((window.requests, window.errors, sum(window.latency)) == (0, 0, 0) for window in found.values())


def test_after_a_power_cut_it_is_what_it_was(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    new = put(subject, "2")
    endpoint.shift({old: 75, new: 25})
    endpoint.write_record("mine")
    before = endpoint.status()
    subject.restart()
    seen = subject.endpoint.status()
    assert (seen.record, seen.generation) == (before.record, before.generation)
    assert shares(seen) == shares(before)
    after = subject.endpoint.shift({old: 50, new: 50}, expect=before.generation)
    assert shares(after) == {old: 50, new: 50}
    assert all(revision.ready for revision in after.revisions)


def test_an_ended_endpoint_serves_nothing_and_can_begin_anew(subject: Subject, endpoint: Endpoint) -> None:
    old = serve(subject, "1")
    endpoint.write_record("mine")
    assert shares(endpoint.stop()) == {old: 100}
    status = endpoint.status()
    assert (status.revisions, status.record, status.live) == ((), "", None)
    assert endpoint.stop().revisions == ()
    new = serve(subject, "2")
    assert shares(endpoint.status()) == {new: 100}
