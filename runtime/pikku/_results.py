"""Who waits for the end of which run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container

from pikku._committer import Committer
from pikku._records import FINAL_STATUSES, Delivery, RunRecord, Settle, WatchRun
from pikku.errors import ResultTimeoutError, RunNotFoundError, StoreUnavailableError
from pikku.stores.base import Store

GO_ON = "the run goes on when a process opens the app again"
WATCH_SECONDS = 0.1
# Where the store tells of a run's end, it is looked up this often all the same.
LOOK_AGAIN_SECONDS = 5.0
REMEMBERED_ENDS = 1000


class Results:
    """The ends of runs, for those who wait for them.

    Args:
        live: the runs that this process executes.
        on_waiting: told when somebody begins to wait for one of these.
    """

    def __init__(
        self,
        store: Store,
        committer: Committer,
        live: Container[str],
        on_waiting: Callable[[], None],
    ) -> None:
        self._store = store
        self._committer = committer
        self._live = live
        self._on_waiting = on_waiting
        self._ended: OrderedDict[str, Settle] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Future[Settle]]] = {}
        self._closed = False

    @property
    def nobody_waits(self) -> bool:
        """Whether no one waits for anything."""
        return not self._waiting

    async def result(self, run_id: str, timeout_us: int | None, *, watches: bool = False) -> Settle:
        """How the run ended, once it has.

        Args:
            watches: have the store tell of its end, whatever it pushes: the run may be gone then.

        Raises:
            RunNotFoundError: if there is no such run.
            ResultTimeoutError: if it has not ended in time.
            StoreUnavailableError: if the app is closed meanwhile.
        """
        if timeout_us is None:
            return await self._result(run_id, watches)
        try:
            async with asyncio.timeout(timeout_us / 1e6):
                return await self._result(run_id, watches)
        except TimeoutError:
            raise ResultTimeoutError(
                f"run {run_id} did not end within {timeout_us / 1e6:g} s"
            ) from None

    async def _result(self, run_id: str, watches: bool) -> Settle:
        while True:
            if (ended := self._ended.get(run_id)) is not None:
                return ended
            if self._closed:
                raise StoreUnavailableError("the app was closed meanwhile", hint=GO_ON)
            if run_id in self._live or watches or self._store.pushes:
                settle = await self._wait(run_id)
                if settle is not None and settle.status in FINAL_STATUSES:
                    return settle
                continue
            run = await self._store.load_run(run_id)
            if run is None:
                raise RunNotFoundError(run_id, store=self._store.address)
            if run.status in FINAL_STATUSES:
                return _end_of(run)
            if run_id not in self._live:
                await asyncio.sleep(WATCH_SECONDS)

    async def _wait(self, run_id: str) -> Settle | None:
        """What became of the run here, or in the process that ends it; None when it is time to
        look again."""
        future: asyncio.Future[Settle] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(run_id, [])
        waiting.append(future)
        try:
            if run_id in self._live:
                self._on_waiting()
                return await future
            result = await self._committer.request(WatchRun(run_id))
            if result.run is not None:
                return _end_of(result.run)
            if result.code == "not_found":
                raise RunNotFoundError(run_id, store=self._store.address)
            async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                return await future
        except TimeoutError:
            return None
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._waiting.get(run_id) is waiting:
                del self._waiting[run_id]

    def told(self, delivery: Delivery) -> None:
        """The store says how a run ended elsewhere."""
        status = delivery.status
        assert status in FINAL_STATUSES
        self.tell(
            delivery.run_id,
            Settle(status, delivery.result, delivery.error, delivery.key or None),  # type: ignore[arg-type]
        )

    def ended(self, run_id: str, settle: Settle) -> None:
        """The run ended here."""
        self._ended[run_id] = settle
        if len(self._ended) > REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def forget(self, run_id: str) -> None:
        """The run goes on after its end, or is gone."""
        self._ended.pop(run_id, None)

    def tell(self, run_id: str, settle: Settle) -> None:
        """Tell those who wait for the run; what is not final has them look again."""
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(settle)

    def close(self) -> None:
        """Nobody is told anything any more."""
        self._closed = True
        for waiting in list(self._waiting.values()):
            for future in waiting:
                if not future.done():
                    future.set_exception(
                        StoreUnavailableError("the app was closed meanwhile", hint=GO_ON)
                    )


def _end_of(run: RunRecord) -> Settle:
    return Settle(run.status, run.output, run.error, run.cancel_reason)
