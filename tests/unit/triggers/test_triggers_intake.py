"""The intake: many requests in one commit, each with its own answer."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from trigger_parts import postgresql

from shipway.triggers.incoming import Incoming
from shipway.triggers.intake import FullError, Intake
from shipway.triggers.store import Delivery, Store, Stored, StoreError, UnstorableError


class Held(Store):
    """A store that commits when it is let to, and notes how much at a time."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.go = threading.Event()
        self.begun = threading.Event()
        self.groups: list[int] = []

    def add(self, deliveries: Sequence[Delivery], now: float | None = None) -> list[Stored]:
        self.groups.append(len(deliveries))
        self.begun.set()
        assert self.go.wait(20)
        return super().add(deliveries, now)


def delivery(name: str, title: str = "") -> Delivery:
    return Delivery(Incoming("one", "alert", name, {}, {}, title))


@pytest.fixture
def store(tmp_path):
    opened = Held(f"sqlite:///{tmp_path / 'trigger.db'}")
    yield opened
    opened.close()


async def gathered(intake: Intake, *requests: list[Delivery]) -> list[Any]:
    return await asyncio.gather(*(intake.put(one, 10) for one in requests), return_exceptions=True)


def test_what_comes_during_a_commit_is_committed_together(store):
    woken: list[int] = []
    intake = Intake(store, lambda: woken.append(1))
    intake.start()

    async def send() -> list[Any]:
        first = asyncio.create_task(intake.put([delivery("a")], 10))
        await asyncio.to_thread(store.begun.wait, 20)
        rest = [asyncio.create_task(intake.put([delivery(name), delivery("a")], 10)) for name in "bcd"]
        await asyncio.sleep(0)
        store.go.set()
        return [await first, *[await one for one in rest]]

    answers = asyncio.run(send())
    intake.close()
    assert store.groups == [1, 6]
    assert len(woken) == 2
    assert [[one.folded for one in answer] for answer in answers] == [[False], *[[False, True]] * 3]


def test_too_much_at_once_is_refused_and_the_rest_is_stored(store):
    intake = Intake(store, lambda: None, room=25)
    intake.start()

    async def send() -> list[Any]:
        waiting = asyncio.create_task(intake.put([delivery("a")], 10))
        await asyncio.to_thread(store.begun.wait, 20)
        answers = asyncio.create_task(gathered(intake, *[[delivery(name)] for name in "bcd"]))
        await asyncio.sleep(0.01)
        store.go.set()
        return [await waiting, *await answers]

    first, second, third, fourth = asyncio.run(send())
    intake.close()
    assert not first[0].folded
    assert not second[0].folded
    assert not third[0].folded
    assert isinstance(fourth, FullError)
    assert {one["fingerprint"] for one in store.alerts()} == {"a", "b", "c"}


def test_what_waits_is_stored_before_it_ends(store):
    intake = Intake(store, lambda: None)
    intake.start()

    async def send() -> list[Any]:
        answers = asyncio.create_task(gathered(intake, *[[delivery(name)] for name in "abc"]))
        await asyncio.to_thread(store.begun.wait, 20)
        closing = asyncio.create_task(asyncio.to_thread(intake.close))
        store.go.set()
        await closing
        late = await gathered(intake, [delivery("late")])
        return [*await answers, *late]

    *stored, late = asyncio.run(send())
    assert len(stored) == len(store.alerts()) == 3
    assert isinstance(late, FullError)
    assert not intake.running


def test_a_store_that_fails_fails_each_request_and_the_intake_goes_on(store):
    intake = Intake(store, lambda: None)
    intake.start()
    store.go.set()
    with store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE alerts RENAME TO elsewhere")
    answers = asyncio.run(gathered(intake, [delivery("a")], [delivery("b")]))
    assert [type(answer) for answer in answers] == [StoreError, StoreError]
    with store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO alerts")
    (answer,) = asyncio.run(gathered(intake, [delivery("a")]))
    intake.close()
    assert not answer[0].folded


def test_a_request_whose_caller_has_gone_harms_nobody(store):
    intake = Intake(store, lambda: None)
    intake.start()

    async def send() -> list[Any]:
        leaving = asyncio.create_task(intake.put([delivery("a")], 10))
        await asyncio.to_thread(store.begun.wait, 20)
        leaving.cancel()
        store.go.set()
        return await gathered(intake, [delivery("a")], [delivery("b")])

    answers = asyncio.run(send())
    intake.close()
    assert [answer[0].folded for answer in answers] == [True, False]


@pytest.mark.slow
def test_one_that_postgresql_will_not_have_does_not_take_the_others_with_it():
    with postgresql() as url:
        store = Held(url)
        intake = Intake(store, lambda: None)
        intake.start()

        async def send() -> list[Any]:
            first = asyncio.create_task(intake.put([delivery("a")], 10))
            await asyncio.to_thread(store.begun.wait, 20)
            rest = asyncio.create_task(
                gathered(
                    intake, [delivery("b")], [delivery("bad", "NUL \0 in it")], [delivery("x" * 999)], [delivery("c")]
                )
            )
            await asyncio.sleep(0.01)
            store.go.set()
            return [await first, *await rest]

        first, second, nul, long, last = asyncio.run(send())
        intake.close()
        assert not any(answer[0].folded for answer in (first, second, last))
        assert isinstance(nul, UnstorableError)
        assert isinstance(long, UnstorableError)
        assert {one["fingerprint"] for one in store.alerts()} == {"a", "b", "c"}
        store.close()
