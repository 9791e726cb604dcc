"""A store behind a payload codec: values are sealed on their way in and opened on their way out.

Sealed are inputs, results, outputs, errors, jobs, progress and what history entries say. What the
store itself needs stays readable: ids, names of workflows, steps and functions, statuses, times,
tags, reasons for a cancel, fingerprints of inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pikku._clock import Clock
from pikku._payloads import SEALED, PayloadCodec, Unopened, is_sealed
from pikku._records import (
    GIVEN_UP,
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    DecideStep,
    Delivery,
    Examination,
    HistoryEntry,
    Holdings,
    Job,
    LoadedRun,
    Op,
    OpResult,
    PutRun,
    ReapSessions,
    Reply,
    ReportProgress,
    RunFilter,
    RunRecord,
    Settle,
    SignalRun,
    StepRecord,
    StepWrite,
    copy_run,
    copy_step,
)
from pikku.errors import SealError, TransactionError
from pikku.stores.base import Enlists, Store
from pikku.stores.lanes import QueueLimits

T = TypeVar("T")
log = logging.getLogger("pikku")


class SealedStore:
    """Keeps every promise of `pikku.stores.base.Store` that *store* keeps.

    Text that is not sealed passes through. Text that cannot be opened stays sealed: whoever goes
    on to read it gets a `SealError`, and no other run or value is touched. An operation whose
    values cannot be sealed is refused alone.
    """

    def __init__(self, store: Store, codec: PayloadCodec) -> None:
        self.inner = store
        self._seal = codec.seal
        self._open = codec.open
        # A store knows the repeat of an outcome by its text, and sealing twice may give two texts.
        self._unanswered: dict[int, tuple[CompleteStep | DecideStep, Op]] = {}

    @property
    def clock(self) -> Clock:
        return self.inner.clock

    @property
    def address(self) -> str:
        return self.inner.address

    @property
    def shared(self) -> bool:
        return self.inner.shared

    @property
    def pushes(self) -> bool:
        return self.inner.pushes

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def apply(self, session: str, ops: Sequence[Op], want: Mapping[str, int], /) -> Reply:
        sealed: list[Op] = []
        refused: dict[int, OpResult] = {}
        for place, op in enumerate(ops):
            try:
                _, known = self._unanswered.get(id(op), (op, None))
                sealed.append(known or self._sealed_op(op))
            except SealError as error:
                refused[place] = OpResult("error", error=error)
        try:
            reply = await self.inner.apply(session, sealed, want)
        except BaseException:
            sent = (op for place, op in enumerate(ops) if place not in refused)
            for op, made in zip(sent, sealed, strict=True):
                if isinstance(op, (CompleteStep, DecideStep)):
                    self._unanswered[id(op)] = op, made
            raise
        if self._unanswered:
            for op in ops:
                self._unanswered.pop(id(op), None)
        taken = iter(reply.results)
        results = [refused.get(place) or next(taken) for place in range(len(ops))]
        return reply._replace(
            results=[self._opened_result(each) for each in results],
            claimed=[self._opened_loaded(each) for each in reply.claimed],
            inbox=[self._opened_delivery(each) for each in reply.inbox],
            jobs=[self._opened_job(each) for each in reply.jobs],
        )

    async def start_in_transaction(self, connection: object, op: CreateRun, /) -> OpResult:
        if not isinstance(self.inner, Enlists):
            raise TransactionError(f"{self.address} takes no part in transactions")
        result = await self.inner.start_in_transaction(connection, self._sealed_start(op))
        return self._opened_result(result)

    def limit_queue(self, queue: str, limits: QueueLimits, /) -> None:
        self.inner.limit_queue(queue, limits)

    def beat(self, session: str, lease_us: int) -> bool:
        return self.inner.beat(session, lease_us)

    async def wait(self, session: str, queues: Sequence[str], seconds: float, /) -> str | None:
        return await self.inner.wait(session, queues, seconds)

    async def load_run(self, run_id: str) -> RunRecord | None:
        run = await self.inner.load_run(run_id)
        return run and self._opened_run(run)

    async def load_steps(self, run_id: str) -> LoadedRun | None:
        loaded = await self.inner.load_steps(run_id)
        return loaded and self._opened_loaded(loaded)

    async def load_history(self, run_id: str) -> list[HistoryEntry]:
        entries = await self.inner.load_history(run_id)
        return [
            entry._replace(data=self._opened(entry.data, run_id, f"an entry {entry.kind!r}"))
            for entry in entries
        ]

    async def list_runs(self, wanted: RunFilter) -> list[RunRecord]:
        return [self._opened_run(run) for run in await self.inner.list_runs(wanted)]

    async def count_runs(self, workflow: str | None = None) -> dict[str, int]:
        return await self.inner.count_runs(workflow)

    async def count_jobs(self) -> dict[str, int]:
        return await self.inner.count_jobs()

    async def examine(self) -> Examination:
        return await self.inner.examine()

    async def holdings(self, session: str) -> Holdings:
        return await self.inner.holdings(session)

    # --- in -------------------------------------------------------------------------------------

    def _sealed_op(self, op: Op) -> Op:
        match op:
            case Commit():
                return op._replace(
                    ends=self._each(self._sealed_write, op.ends),
                    asks=self._each(self._sealed_write, op.asks),
                    history=self._each(self._sealed_entry, op.history),
                    settle=op.settle and self._sealed_settle(op.settle),
                    children=self._each(self._sealed_start, op.children),
                )
            case CreateRun():
                return self._sealed_start(op)
            case CancelRun():
                return op._replace(forced=self._sealed(op.forced))
            case SignalRun():
                return op._replace(payload=self._sealed_text(op.payload))
            case DecideStep():
                return op._replace(decision=self._sealed_text(op.decision))
            case PutRun():
                return op._replace(
                    run=self._sealed_run(op.run),
                    steps=self._each(self._sealed_step, op.steps),
                    history=self._each(self._sealed_entry, op.history),
                )
            case CompleteStep():
                return op._replace(result=self._sealed(op.result), error=self._sealed(op.error))
            case ReportProgress():
                return op._replace(progress=self._sealed_text(op.progress))
            case ReapSessions():
                return op._replace(poisoned=self._sealed_text(op.poisoned))
            case _:
                return op

    @staticmethod
    def _each(seal: Callable[[T], T], records: Iterable[T]) -> tuple[T, ...]:
        return tuple(seal(record) for record in records)

    def _sealed_start(self, op: CreateRun) -> CreateRun:
        job = op.job and self._sealed_write(op.job)
        return op._replace(input=self._sealed_text(op.input), job=job)

    def _sealed_write(self, write: StepWrite) -> StepWrite:
        return write._replace(
            input=self._sealed(write.input),
            result=self._sealed(write.result),
            error=self._sealed(write.error),
            # The job of a child is its id, which the store goes by.
            job=write.job if write.kind == "child" else self._sealed(write.job),
        )

    def _sealed_run(self, run: RunRecord) -> RunRecord:
        run = copy_run(run)
        run.input = self._sealed_text(run.input)
        run.output = self._sealed(run.output)
        run.error = self._sealed(run.error)
        return run

    def _sealed_step(self, step: StepRecord) -> StepRecord:
        step = copy_step(step)
        step.input = self._sealed(step.input)
        step.result = self._sealed(step.result)
        if step.error != GIVEN_UP:
            step.error = self._sealed(step.error)
        if step.kind != "child":
            step.job = self._sealed(step.job)
        step.progress = self._sealed(step.progress)
        return step

    def _sealed_entry(self, entry: HistoryEntry) -> HistoryEntry:
        return entry._replace(data=self._sealed(entry.data))

    def _sealed_settle(self, settle: Settle) -> Settle:
        if settle.reason == "unreadable" and settle.status == "suspended":
            return settle  # it says nothing of values, and whoever has the right key must read it
        return settle._replace(output=self._sealed(settle.output), error=self._sealed(settle.error))

    def _sealed(self, text: str | None) -> str | None:
        return None if text is None else self._sealed_text(text)

    def _sealed_text(self, text: str) -> str:
        try:
            return SEALED + self._seal(text)
        except Exception as error:
            raise SealError(
                f"a value cannot be sealed: {type(error).__name__}",
                hint="look at the payload_codec of the services",
            ) from error

    # --- out ------------------------------------------------------------------------------------

    def _opened(self, text: str | None, run_id: str, what: str) -> str | None:
        if text is None or not is_sealed(text):
            return text
        try:
            opened: object = self._open(text.removeprefix(SEALED))
            if isinstance(opened, str):
                return opened
            why = f"the payload codec made {type(opened).__name__} of it"
        except Exception as error:
            why = f"the payload codec raised {type(error).__name__}"
            log.debug("%s of run %s cannot be opened", what, run_id, exc_info=True)
        left = Unopened(text)
        left.problem = f"{what} of run {run_id} cannot be opened: {why}"
        return left

    def _opened_run(self, run: RunRecord) -> RunRecord:
        run = copy_run(run)
        run.input = self._opened(run.input, run.run_id, "the input") or ""
        run.output = self._opened(run.output, run.run_id, "the output")
        run.error = self._opened(run.error, run.run_id, "the error")
        return run

    def _opened_step(self, step: StepRecord, run_id: str) -> StepRecord:
        step = copy_step(step)
        where = f"of step {step.key!r}"
        step.input = self._opened(step.input, run_id, f"the input {where}")
        step.result = self._opened(step.result, run_id, f"the result {where}")
        step.error = self._opened(step.error, run_id, f"the error {where}")
        step.job = self._opened(step.job, run_id, f"the job {where}")
        step.progress = self._opened(step.progress, run_id, f"the progress {where}")
        return step

    def _opened_loaded(self, loaded: LoadedRun) -> LoadedRun:
        run_id = loaded.run.run_id
        return loaded._replace(
            run=self._opened_run(loaded.run),
            steps=tuple(self._opened_step(step, run_id) for step in loaded.steps),
        )

    def _opened_job(self, job: Job) -> Job:
        return job._replace(step=self._opened_step(job.step, job.run_id))

    def _opened_result(self, result: OpResult) -> OpResult:
        return result if result.run is None else result._replace(run=self._opened_run(result.run))

    def _opened_delivery(self, word: Delivery) -> Delivery:
        if word.what == "cancel":
            return word
        of = "" if word.what == "ended" else f" of step {word.key!r}"
        return word._replace(
            result=self._opened(word.result, word.run_id, f"the result{of}"),
            error=self._opened(word.error, word.run_id, f"the error{of}"),
        )
