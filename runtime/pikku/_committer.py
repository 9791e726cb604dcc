"""Group commit: at most one call to the store is under way; what becomes ready meanwhile goes into
the next. No delay is added: alone, an operation is a call of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from pikku._clock import steady_seconds
from pikku._records import (
    BeginStep,
    Commit,
    CompleteStep,
    HandRun,
    Op,
    OpResult,
    ReleaseRun,
    ReleaseStep,
    Reply,
    ReportProgress,
)
from pikku._telemetry import NOBODY, Observer
from pikku.errors import InternalError, StoreError, StoreUnavailableError
from pikku.stores.base import Store

log = logging.getLogger("pikku")

# A store that answers without waiting must not keep the loop to itself for longer than this.
SPIN_SECONDS = 0.005
RETRY_SECONDS = (0.05, 0.2, 1.0, 5.0)

# What only the session may say that holds a lease; another one must not say it after it.
OF_THE_HOLDER = (
    Commit,
    CompleteStep,
    BeginStep,
    ReleaseStep,
    ReportProgress,
    ReleaseRun,
    HandRun,
)
FENCED = OpResult("fenced")

Done = Callable[[OpResult], None]
T = TypeVar("T")


class Committer:
    """The one way from an engine to its store's transitions.

    Args:
        session: the session in whose name the operations are made, asked for at each call.
        want: what to fetch from each queue, asked for at each call of so many operations.
        on_reply: told of each reply after the operations' own results.
        on_idle: called when nothing is left to send.
        on_answered: called when somebody goes on with the answer to a request.
        busy: whether coroutines of steps are under way and need the loop.
        observer: told of every call.
    """

    def __init__(
        self,
        store: Store,
        *,
        session: Callable[[], str],
        want: Callable[[int], Mapping[str, int]],
        on_reply: Callable[[Reply], None],
        on_idle: Callable[[], None],
        on_answered: Callable[[], None],
        busy: Callable[[], bool],
        observer: Observer = NOBODY,
    ) -> None:
        self._store = store
        self._apply = self._watched(observer) if observer.active else store.apply
        self._session = session
        self._want = want
        self._on_reply = on_reply
        self._on_idle = on_idle
        self._on_answered = on_answered
        self._busy = busy
        self._ops: list[Op] = []
        self._dones: list[Done] = []
        self._impatient: set[Done] = set()
        self._tried: set[int] = set()
        self._poked = False
        self._wake = asyncio.Event()
        self._closing = False
        self._failures = 0
        self._life = 0
        self._sent: list[Done] = []
        self.in_flight = False
        self._asleep = False
        self.requests = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, and nobody is about to go on with an answer."""
        return not self.in_flight and not self._ops and not self.requests

    def submit(self, op: Op, done: Done) -> None:
        """Send *op* with the next call, and again until the store has taken it."""
        self._ops.append(op)
        self._dones.append(done)
        if self._asleep:
            self._wake.set()

    def withdraw(self, op: Op) -> bool:
        """Take back *op*, whose outcome nobody is told then; False if it may have been sent."""
        for place, each in enumerate(self._ops):
            if each is op and id(op) not in self._tried:
                del self._ops[place], self._dones[place]
                return True
        return False

    def retract(self, op: Op) -> None:
        """Send *op* no more, whatever has become of it. Nobody is told."""
        for place, each in enumerate(self._ops):
            if each is op:
                del self._ops[place], self._dones[place]
                return

    def session_is_over(self) -> None:
        """Say nothing more in the name of the session that was: nor under that of the next one,
        which may hold the same runs by now."""
        self._life += 1
        ops, dones = self._ops, self._dones
        self._ops, self._dones = [], []
        self._keep(ops, dones)

    def _keep(self, ops: list[Op], dones: list[Done]) -> None:
        """Have what any session may say sent with the next call, before the rest; refuse others."""
        kept = [(op, done) for op, done in zip(ops, dones, strict=True) if not _of_holder(op)]
        self._ops[:0] = [op for op, _ in kept]
        self._dones[:0] = [done for _, done in kept]
        for op, done in zip(ops, dones, strict=True):
            if _of_holder(op):
                self._impatient.discard(done)
                _tell(done, FENCED)

    def send(self, op: Op, done: Done) -> None:
        """Send *op* with the next call, once: what fails is told to *done* at once.

        Raises:
            StoreUnavailableError: if the committer is closing.
        """
        if self._closing:
            raise StoreUnavailableError("the app is closing and starts nothing new", hint="")
        self._impatient.add(done)
        self.submit(op, done)

    async def request(self, op: Op) -> OpResult:
        """Send *op* with the next call.

        Raises:
            StoreError: if that call fails; nothing was changed then.
        """
        answer: asyncio.Future[OpResult] = asyncio.get_running_loop().create_future()

        def done(result: OpResult) -> None:
            if answer.done():
                return
            if result.error is not None:
                answer.set_exception(result.error)
            else:
                answer.set_result(result)

        self.send(op, done)
        self.requests += 1
        try:
            return await answer
        finally:
            self.requests -= 1
            self._on_answered()

    def poke(self) -> None:
        """Make a call even if there is nothing to send: for claims and mail."""
        self._poked = True
        self._wake.set()

    def close(self) -> None:
        """Have `run` return once everything is sent; what fails from now on is given up."""
        self._closing = True
        self._wake.set()

    def give_up(self) -> None:
        """Tell whoever still waits for an answer that none is waited for any more."""
        dones = [*self._sent, *self._dones]
        self._sent, self._ops, self._dones = [], [], []
        self._refuse(
            dones,
            StoreUnavailableError(
                "the app was closed before the store had answered",
                hint="what was asked for may have happened; ask again when the app is open",
            ),
        )

    async def run(self) -> None:
        """Send until closed."""
        last_yield = steady_seconds()
        apply = self._apply
        while True:
            if not self._ops and not self._poked:
                if self._closing:
                    return
                self._on_idle()
                if not self._ops and not self._poked:
                    self._wake.clear()
                    self._asleep = True
                    await self._wake.wait()
                    self._asleep = False
                    last_yield = steady_seconds()
                    continue
            ops, dones = self._ops, self._dones
            self._ops, self._dones = [], []
            self._poked = False
            self.in_flight = True
            life = self._life
            self._sent = dones
            try:
                reply = await apply(self._session(), ops, self._want(len(ops)))
            except Exception as error:
                await self._failed(ops, dones, error, life)
                self.in_flight = False
            else:
                self.in_flight = False
                self._sent = []
                self._failures = 0
                if self._tried:
                    self._tried = set()
                for done, result in zip(dones, reply.results, strict=True):
                    _tell(done, result)
                if life == self._life:
                    _tell(self._on_reply, reply)
                if self._impatient:
                    self._impatient.difference_update(dones)
            if self._busy() or steady_seconds() - last_yield > SPIN_SECONDS:
                await asyncio.sleep(0)
                last_yield = steady_seconds()

    def _watched(
        self, observer: Observer
    ) -> Callable[[str, Sequence[Op], Mapping[str, int]], Coroutine[Any, Any, Reply]]:
        """The store's `apply`, and the observer is told how long it took."""
        apply = self._store.apply

        async def watched(session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
            began = steady_seconds()
            try:
                reply = await apply(session, ops, want)
            except Exception:
                observer.called_store(steady_seconds() - began, failed=True)
                raise
            observer.called_store(steady_seconds() - began, failed=False)
            return reply

        return watched

    async def _failed(self, ops: list[Op], dones: list[Done], error: Exception, life: int) -> None:
        """Put off what can wait, find what spoils a batch, and refuse the rest."""
        if isinstance(error, StoreUnavailableError) or not ops:
            await self._put_off(ops, dones, error, life)
        elif len(ops) > 1:
            for op, done in zip(ops, dones, strict=True):
                await self._send_alone(op, done, life)
        elif isinstance(error, StoreError):
            await self._put_off(ops, dones, error, life)
        else:
            log.error("the store failed on %s", type(ops[0]).__name__, exc_info=error)
            self._refuse(dones, InternalError(f"the store failed: {error!r}"))

    async def _send_alone(self, op: Op, done: Done, life: int) -> None:
        if life != self._life and _of_holder(op):
            _tell(done, FENCED)
            return
        life = self._life
        try:
            reply = await self._apply(self._session(), [op], self._want(1))
        except Exception as error:
            await self._failed([op], [done], error, life)
        else:
            self._impatient.discard(done)
            _tell(done, reply.results[0])
            if life == self._life:
                _tell(self._on_reply, reply)

    async def _put_off(self, ops: list[Op], dones: list[Done], error: Exception, life: int) -> None:
        patient = [
            (op, done)
            for op, done in zip(ops, dones, strict=True)
            if done not in self._impatient and not self._closing
        ]
        kept = {id(done) for _, done in patient}
        self._refuse([done for done in dones if id(done) not in kept], error)
        wait = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1
        if patient or not ops:
            log.warning("%s; trying again in %g s", error, wait)
        self._tried = {id(op) for op, _ in patient}
        if life == self._life:
            self._ops[:0] = [op for op, _ in patient]
            self._dones[:0] = [done for _, done in patient]
        else:
            self._keep([op for op, _ in patient], [done for _, done in patient])
        self._sent = []
        if not self._closing:
            await asyncio.sleep(wait)

    def _refuse(self, dones: list[Done], error: Exception) -> None:
        for done in dones:
            self._impatient.discard(done)
            _tell(done, OpResult("error", error=error))


def _of_holder(op: Op) -> bool:
    return isinstance(op, OF_THE_HOLDER)


def _tell(listener: Callable[[T], None], news: T) -> None:
    """A listener's bug must not cost the others their news, nor the engine its committer."""
    try:
        listener(news)
    except Exception:
        log.critical("a bug in pikku", exc_info=True)
