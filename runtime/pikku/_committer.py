"""Group commit: at most one call to the store is under way; what becomes ready meanwhile goes into
the next. No delay is added: alone, an operation is a call of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pikku._records import Op, OpResult, Reply
from pikku.errors import InternalError, PikkuError, StoreError, StoreUnavailableError
from pikku.stores.base import Store

log = logging.getLogger("pikku")

# A store that answers without waiting must not keep the loop to itself for longer than this.
SPIN_SECONDS = 0.005
RETRY_SECONDS = (0.05, 0.2, 1.0, 5.0)


class Pending(NamedTuple):
    """An operation on its way. `patient` ones are tried until the store takes them."""

    op: Op
    done: Callable[[OpResult], None]
    patient: bool


class Committer:
    """The one way from an engine to its store's transitions.

    Args:
        session: the session in whose name the operations are made, asked for at each call.
        want: how many runs to claim from each queue, asked for at each call.
        on_reply: told of each reply after the operations' own results.
        on_idle: called when nothing is left to send.
        busy: whether coroutines of steps are under way and need the loop.
    """

    def __init__(
        self,
        store: Store,
        *,
        session: Callable[[], str],
        want: Callable[[], Mapping[str, int]],
        on_reply: Callable[[Reply], None],
        on_idle: Callable[[], None],
        busy: Callable[[], bool],
    ) -> None:
        self._store = store
        self._session = session
        self._want = want
        self._on_reply = on_reply
        self._on_idle = on_idle
        self._busy = busy
        self._pending: list[Pending] = []
        self._poked = False
        self._wake = asyncio.Event()
        self._closing = False
        self._failures = 0
        self.in_flight = False

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self.in_flight and not self._pending

    def submit(self, op: Op, done: Callable[[OpResult], None]) -> None:
        """Send *op* with the next call, and again until the store has taken it."""
        self._pending.append(Pending(op, done, True))
        self._wake.set()

    async def request(self, op: Op) -> OpResult:
        """Send *op* with the next call.

        Raises:
            StoreError: if that call fails; nothing was changed then.
        """
        if self._closing:
            raise StoreUnavailableError("the app is closing and starts nothing new", hint="")
        answer: asyncio.Future[OpResult] = asyncio.get_running_loop().create_future()

        def done(result: OpResult) -> None:
            if answer.done():
                return
            if result.error is not None:
                answer.set_exception(result.error)
            else:
                answer.set_result(result)

        self._pending.append(Pending(op, done, False))
        self._wake.set()
        return await answer

    def poke(self) -> None:
        """Make a call even if there is nothing to send: for claims and mail."""
        self._poked = True
        self._wake.set()

    def close(self) -> None:
        """Have `run` return once everything is sent; what fails from now on is given up."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Send until closed."""
        last_yield = time.monotonic()
        while True:
            if not self._pending and not self._poked:
                if self._closing:
                    return
                self._on_idle()
                if not self._pending and not self._poked:
                    self._wake.clear()
                    await self._wake.wait()
                    last_yield = time.monotonic()
                    continue
            batch, self._pending = self._pending, []
            self._poked = False
            self.in_flight = True
            try:
                await self._send(batch)
            finally:
                self.in_flight = False
            if self._busy() or time.monotonic() - last_yield > SPIN_SECONDS:
                await asyncio.sleep(0)
                last_yield = time.monotonic()

    async def _send(self, batch: list[Pending]) -> None:
        try:
            reply = await self._store.apply(
                self._session(), [each.op for each in batch], self._want()
            )
        except StoreUnavailableError as error:
            await self._put_off(batch, error)
        except StoreError as error:
            if len(batch) > 1:
                await self._send_one_by_one(batch)
            else:
                await self._put_off(batch, error)
        except Exception as error:
            if len(batch) > 1:
                await self._send_one_by_one(batch)
            else:
                log.exception("the store failed on %s", type(batch[0].op).__name__ if batch else "")
                self._refuse(batch, InternalError(f"the store failed: {error!r}"))
        else:
            self._failures = 0
            self._settle(batch, reply)

    def _settle(self, batch: list[Pending], reply: Reply) -> None:
        for each, result in zip(batch, reply.results, strict=True):
            each.done(result)
        self._on_reply(reply)

    async def _send_one_by_one(self, batch: list[Pending]) -> None:
        """Find the operation that spoils its batch, so that it fails alone."""
        for each in batch:
            await self._send([each])

    async def _put_off(self, batch: list[Pending], error: PikkuError) -> None:
        patient = [each for each in batch if each.patient and not self._closing]
        self._refuse([each for each in batch if each not in patient], error)
        wait = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1
        if patient or not batch:
            log.warning("%s; trying again in %g s", error, wait)
        self._pending[:0] = patient
        if not self._closing:
            await asyncio.sleep(wait)

    def _refuse(self, batch: list[Pending], error: Exception) -> None:
        for each in batch:
            each.done(OpResult("error", error=error))
