"""The heartbeat: what it takes for a process to give its runs up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pikku._session import Session

LEASE = 0.1
GRACE = 0.3


class Beats:
    """Of a store, what a heartbeat needs."""

    def __init__(self) -> None:
        self.count = 0
        self.on_beat: Callable[[], object] = lambda: None

    def beat(self, session: str, lease_us: int) -> bool:
        self.count += 1
        self.on_beat()
        return True


def open_session(store: Any, on_stuck: Callable[[], None]) -> Session:
    session = Session(
        store,
        asyncio.get_running_loop(),
        lease_seconds=LEASE,
        loop_grace_seconds=GRACE,
        on_lost=lambda: None,
        on_stuck=on_stuck,
    )
    session.open()
    return session


async def test_a_loop_that_stands_still_costs_the_lease_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Beats()
    stuck = threading.Event()
    told: list[int] = []

    def on_stuck() -> None:
        told.append(store.count)
        stuck.set()

    session = open_session(store, on_stuck)
    try:
        with caplog.at_level(logging.ERROR, "pikku"):
            assert stuck.wait(20)  # on the loop's own thread: the loop stands still
        beats_given_up = store.count
        stuck.clear()
        assert not stuck.wait(3 * GRACE)
    finally:
        await asyncio.to_thread(session.close)

    assert told == [beats_given_up]
    assert "stuck.wait(20)" in caplog.text


async def test_a_loop_that_moves_again_has_its_lease_extended_again() -> None:
    store = Beats()
    stuck = threading.Event()
    again = asyncio.Event()
    loop = asyncio.get_running_loop()
    session = open_session(store, stuck.set)
    try:
        assert stuck.wait(20)
        store.on_beat = lambda: loop.call_soon_threadsafe(again.set)
        async with asyncio.timeout(20):
            await again.wait()
    finally:
        await asyncio.to_thread(session.close)


async def test_a_heartbeat_that_was_kept_waiting_does_not_blame_the_loop() -> None:
    store = Beats()
    beaten = asyncio.Event()
    loop = asyncio.get_running_loop()
    blamed: list[str] = []
    never = threading.Event()

    def second() -> None:
        store.on_beat = lambda: loop.call_soon_threadsafe(beaten.set)
        never.wait(3 * GRACE)  # as if the store did not answer, or the process were frozen

    session = open_session(store, lambda: blamed.append("the loop"))
    store.on_beat = second
    try:
        async with asyncio.timeout(20):
            await beaten.wait()
    finally:
        await asyncio.to_thread(session.close)

    assert blamed == []
