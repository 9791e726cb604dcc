"""What is done to runs from outside: signals, decisions, resume, retry, fork, export, delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pikku._answers import AnswerTerms, Verdict, type_at
from pikku._clock import as_datetime
from pikku._codec import Codec, codec_for
from pikku._diagnosis import awaited_children
from pikku._error_info import ErrorInfo, cancellation
from pikku._exported import ExportedRun, as_put, exported, imported
from pikku._functions import NO_INPUT
from pikku._ids import check_reason, check_run_id, new_run_id
from pikku._payloads import check_size
from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    CancelRun,
    DecideStep,
    DeleteRun,
    LoadedRun,
    Op,
    OpResult,
    RequeueRun,
    RunFilter,
    RunRecord,
    SignalRun,
    StepRecord,
)
from pikku._repair import forked, retried, step_of
from pikku._telemetry import Word
from pikku.errors import (
    AlreadyDecidedError,
    ApproverError,
    DeclarationError,
    NoSuchStepError,
    RunConflictError,
    RunNotFoundError,
    RunStateError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from pikku._app import OpenApp

PAGE = 200
TRIES = 5


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """An approval that waits for its answer.

    Attributes:
        step: the step's key, by which it is answered.
        schema: the type of the answer's data, as `module:qualname`; None where it takes none.
    """

    step: str
    reason: str
    approvers: str
    scope: str
    schema: str | None
    asked_at: datetime
    expires_at: datetime | None


class Control:
    """The open app's side of everything that a handle does to its run."""

    def __init__(self, opened: OpenApp) -> None:
        self._opened = opened
        self._engine = opened.engine
        self._registry = opened.registry
        self._store = opened.engine.store

    # --- words for a run ------------------------------------------------------------------------

    async def signal(self, run_id: str, name: str, payload: Any, signal_id: str | None) -> None:
        """Send a signal to the run.

        Raises:
            UnknownSignalError: no such signal is declared.
            InvalidInputError: the payload does not fit it.
            RunNotFoundError: there is no such run.
            RunStateError: the run has ended.
        """
        codec: Codec = self._registry.signal(name).payload
        where = f"signal {name!r}"
        text = codec.admit(payload, where)
        check_size(text, self._engine.options.max_payload_bytes, f"the payload of {where}")
        signal_id = new_run_id() if signal_id is None else check_run_id(signal_id)
        op = SignalRun(run_id, signal_id, name, text)
        result = await self._say(op, "signal", run_id, name)
        await self._check_found(run_id, result.code)
        if result.code == "settled":
            await self._refuse_ended(run_id, f"receives no signal {name!r} any more")

    async def approvals(self, run_id: str) -> list[ApprovalRequest]:
        """The approvals of the run that wait for an answer.

        Raises:
            RunNotFoundError: there is no such run.
        """
        loaded = await self.load(run_id)
        if loaded.run.status in FINAL_STATUSES:
            return []
        return [_request(step) for step in loaded.steps if _is_open_approval(loaded.run, step)]

    async def decide(
        self,
        run_id: str,
        key: str,
        outcome: Literal["approved", "rejected"],
        data: Any,
        by: str | None,
        note: str,
        scopes: Collection[str],
    ) -> None:
        """Answer an approval.

        Raises:
            RunNotFoundError: there is no such run.
            NoSuchStepError: it has no such approval.
            AlreadyDecidedError: it was answered, or has expired.
            ApproverError: whoever answers may not.
            InvalidInputError: the data does not fit the approval's schema.
            RunStateError: the run has ended, or is unwinding.
        """
        loaded = await self.load(run_id)
        run = loaded.run
        step = _approval(loaded, key)
        if step.status in ENDED_STEP:
            raise _decided(run, step)
        if not _is_open_approval(run, step) or run.status in FINAL_STATUSES:
            await self._refuse_ended(run_id, f"takes no answer to {key!r} any more")
        terms = AnswerTerms.from_json(step.job or "{}")
        _check_approver(run, key, terms, by, scopes)
        said = Verdict(
            outcome,
            _data(key, terms, outcome, data),
            by,
            self._engine.clock.now_us(),
            note,
        )
        text = said.to_json()
        check_size(text, self._engine.options.max_payload_bytes, f"the answer to {key!r}")
        result = await self._say(DecideStep(run_id, key, text), "decide", run_id, key)
        await self._check_found(run_id, result.code)
        if result.code == "decided":
            raise _decided(run, _approval(await self.load(run_id), key))
        if result.code == "settled":
            await self._refuse_ended(run_id, f"takes no answer to {key!r} any more")

    async def cancel(self, run_id: str, reason: str, *, force: bool = False) -> bool:
        """Ask the run to unwind, or end one that is suspended at once by *force*; whether it had
        not ended.

        Raises:
            DeclarationError: *reason* says nothing.
            RunNotFoundError: there is no such run.
        """
        check_reason(reason, f"cancel of run {run_id}")
        op = CancelRun(run_id, reason)
        if force:
            run = await self._store.load_run(run_id)
            if run is None:
                raise RunNotFoundError(run_id, store=self._store.address)
            first = reason if run.cancel_reason is None else run.cancel_reason
            op = op._replace(forced=cancellation(run_id, run.workflow, first))
        result = await self._say(op, "cancel", run_id, "")
        await self._check_found(run_id, result.code)
        return result.code != "settled"

    async def _say(self, op: Op, word: Word, run_id: str, name: str) -> OpResult:
        """The store's answer to a word for a run; whoever watches is told of it."""
        scope = self._engine.observer.saying(word, run_id, name)
        try:
            result = await self._engine.request(op)
        except Exception as error:
            scope.end(ErrorInfo.of(error))
            raise
        scope.end(outcome=result.code)
        return result

    # --- repair ---------------------------------------------------------------------------------

    async def retry(self, run_id: str, from_step: str | None) -> None:
        """Have a failed run go on from the step that failed.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it has not failed, or *from_step* has not.
            NoSuchStepError: it has no step *from_step*.
        """
        for _ in range(TRIES):
            loaded = await self.load(run_id)
            op = retried(
                loaded,
                from_step,
                now_us=self._engine.clock.now_us(),
                timeout_us=self._timeout_us(loaded.run),
            )
            result = await self._engine.request(op)
            await self._check_found(run_id, result.code)
            if result.code == "ok":
                self._engine.results.forget(run_id)
                return
        raise StoreUnavailableError(
            f"run {run_id} is written to by others all the while", hint="try again"
        )

    async def fork(self, run_id: str, key: str, input: Any, new_id: str | None) -> str:
        """A new run that begins where the step *key* was asked for; its id.

        Raises:
            RunNotFoundError: there is no such run.
            NoSuchStepError: it has no such step.
            RunStateError: the step was asked for while the run unwound, or takes no input.
            InvalidInputError: *input* does not fit what the step calls.
            RunIdError: *new_id* cannot be one.
            RunConflictError: there is a run of that id.
        """
        made = new_run_id() if new_id is None else check_run_id(new_id)
        loaded = await self.load(run_id)
        op = forked(
            loaded,
            key,
            None if input is NO_INPUT else self._step_input(loaded, key, input),
            run_id=made,
            inline=not self._engine.remote,
            now_us=self._engine.clock.now_us(),
            timeout_us=self._timeout_us(loaded.run),
        )
        result = await self._engine.request(op)
        if result.code == "exists" and result.run is not None:
            there = result.run
            if there.forked_from != run_id or there.workflow != loaded.run.workflow:
                raise RunConflictError(f"run {made!r} exists and is no fork of run {run_id}")
        return made

    def _step_input(self, loaded: LoadedRun, key: str, input: Any) -> str:
        step = step_of(loaded.run, loaded.steps, key)
        where = f"step {key!r}"
        if step.kind == "child":
            codec = self._registry.workflow(step.target).workflow.declaration.input
        elif step.kind == "rpc":
            codec = self._registry.function(step.target).declaration.input
        else:
            raise RunStateError(
                f"step {key!r} of run {loaded.run.run_id} takes no input",
                hint="replace the input of a step that calls a function or a workflow",
            )
        text = codec.admit(input, where)
        check_size(text, self._engine.options.max_payload_bytes, f"the input of {where}")
        return text

    def _timeout_us(self, run: RunRecord) -> int | None:
        wired = self._registry.workflows.get(run.workflow)
        return None if wired is None else wired.workflow.timeout_us

    async def delete(self, run_id: str) -> None:
        """Remove a run that has ended, with everything that is recorded of it.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it has not ended.
        """
        result = await self._engine.request(DeleteRun(run_id))
        await self._check_found(run_id, result.code)
        if result.code == "not_ended":
            raise RunStateError(
                f"run {run_id} has not ended and cannot be deleted", hint="cancel it first"
            )
        self._engine.results.forget(run_id)

    async def export(self, run_id: str) -> ExportedRun:
        """The run with its history as plain JSON data.

        Raises:
            RunNotFoundError: there is no such run.
        """
        loaded = await self.load(run_id)
        return exported(loaded, await self._store.load_history(run_id))

    async def import_run(self, data: object) -> RunRecord:
        """Write an exported run to this store.

        Raises:
            HistoryFormatError: *data* is no exported run.
            RunConflictError: there is a run of that id.
            RunStateError: it waits for runs that are not here.
        """
        loaded, history = imported(data)
        run_id = loaded.run.run_id
        waits = [] if loaded.run.finished_us is not None else awaited_children(loaded)
        missing = [each for each in waits if await self._store.load_run(each) is None]
        if missing and await self._store.load_run(run_id) is None:
            raise RunStateError(
                f"run {run_id} waits for runs that are not here: {', '.join(missing)}",
                hint="export them as well, and import them first",
            )
        result = await self._engine.request(as_put(loaded, history))
        if result.code == "exists":
            raise RunConflictError(f"run {run_id!r} exists already")
        if waits:  # those that have ended here tell it so
            await self._engine.request(RequeueRun(run_id))
        return loaded.run

    # --- many runs ------------------------------------------------------------------------------

    async def every(self, wanted: RunFilter) -> AsyncGenerator[RunRecord, None]:
        """All runs that fit, page by page, those that come meanwhile left out."""
        seen: set[str] = set()
        before, limit = wanted.before_us, PAGE
        while True:
            page = await self._store.list_runs(wanted._replace(before_us=before, limit=limit))
            new = [run for run in page if run.run_id not in seen]
            for run in new:
                seen.add(run.run_id)
                yield run
            if len(page) < limit:
                return
            if not new:
                limit *= 2
            before = page[-1].created_us + 1

    async def cancel_all(self, wanted: RunFilter, reason: str) -> int:
        """Cancel every run that fits and has not ended; how many.

        Raises:
            DeclarationError: *reason* says nothing.
        """
        check_reason(reason, "cancel of many runs")
        runs = [run.run_id async for run in self.every(wanted) if run.finished_us is None]
        return await each_run(runs, lambda run_id: self.cancel(run_id, reason))

    async def retry_all(self, wanted: RunFilter) -> int:
        """Retry every failed run that fits; how many. See `to_retry`."""
        failed = wanted._replace(status="failed")
        runs = await self.to_retry([run async for run in self.every(failed)])
        return await each_run([run.run_id for run in runs], lambda run_id: self.retry(run_id, None))

    async def to_retry(self, runs: Sequence[RunRecord]) -> list[RunRecord]:
        """Those of the failed *runs* that are retried when all of them are to be: a child is left
        out if a run above it is among them, which does its work anew, and if it is not the last
        attempt of its step."""
        given = {run.run_id for run in runs}
        above: dict[str, LoadedRun | None] = {}

        async def load(run_id: str) -> LoadedRun | None:
            if run_id not in above:
                above[run_id] = await self._store.load_steps(run_id)
            return above[run_id]

        async def is_left_out(run: RunRecord) -> bool:
            below = run.run_id
            parent_id = run.parent
            while parent_id is not None:
                if parent_id in given:
                    return True
                parent = await load(parent_id)
                if parent is None:
                    return False
                if all(step.job != below for step in parent.steps if step.kind == "child"):
                    return True
                below, parent_id = parent_id, parent.run.parent
            return False

        return [run for run in runs if not await is_left_out(run)]

    async def delete_all(self, wanted: RunFilter) -> int:
        """Delete every run that fits and has ended; how many."""
        runs = [run.run_id async for run in self.every(wanted) if run.finished_us is not None]
        return await each_run(runs, self.delete)

    # --- reading --------------------------------------------------------------------------------

    async def load(self, run_id: str) -> LoadedRun:
        """The run with its steps.

        Raises:
            RunNotFoundError: there is none.
        """
        loaded = await self._store.load_steps(run_id)
        if loaded is None:
            raise RunNotFoundError(run_id, store=self._store.address)
        return loaded

    async def _check_found(self, run_id: str, code: str) -> None:
        if code == "not_found":
            raise RunNotFoundError(run_id, store=self._store.address)

    async def _refuse_ended(self, run_id: str, what: str) -> None:
        run = (await self.load(run_id)).run
        state = run.status if run.status in FINAL_STATUSES else "being cancelled"
        raise RunStateError(f"run {run_id} is {state} and {what}", hint="")


async def each_run(
    run_ids: Sequence[str],
    do: Callable[[str], Awaitable[object]],
    *,
    passed_over: tuple[type[Exception], ...] = (RunNotFoundError, RunStateError),
) -> int:
    """One call for each, many at once: they share the batches to the store. How many took it; runs
    that are gone, or in another state by now, are *passed over*."""
    count = 0
    for start in range(0, len(run_ids), PAGE):
        part = run_ids[start : start + PAGE]
        ends = await asyncio.gather(*(do(run_id) for run_id in part), return_exceptions=True)
        for end in ends:
            if not isinstance(end, BaseException):
                count += 1
            elif not isinstance(end, passed_over):
                raise end
    return count


def _is_open_approval(run: RunRecord, step: StepRecord) -> bool:
    past = run.cancel_delivery is not None and step.after < run.cancel_delivery
    return step.kind == "approval" and step.status not in ENDED_STEP and not past


def _approval(loaded: LoadedRun, key: str) -> StepRecord:
    approvals = {step.key: step for step in loaded.steps if step.kind == "approval"}
    if key not in approvals:
        raise NoSuchStepError(loaded.run.run_id, key, list(approvals), what="approval")
    return approvals[key]


def _request(step: StepRecord) -> ApprovalRequest:
    terms = AnswerTerms.from_json(step.job or "{}")
    return ApprovalRequest(
        step.key,
        terms.reason,
        terms.approvers,
        terms.scope,
        terms.schema,
        as_datetime(step.created_us),
        None if step.due_us is None else as_datetime(step.due_us),
    )


def _decided(run: RunRecord, step: StepRecord) -> AlreadyDecidedError:
    at = as_datetime(step.finished_us or step.created_us)
    if step.result is None:
        what = "was given up by the workflow" if step.error is not None else "has expired"
        return AlreadyDecidedError(f"approval {step.key!r} of run {run.run_id} {what}, at {at}")
    said = Verdict.from_json(step.result)
    by = f" by {said.decided_by}" if said.decided_by is not None else ""
    return AlreadyDecidedError(
        f"approval {step.key!r} of run {run.run_id} was {said.outcome}{by} at {said.decided_at}"
    )


def _check_approver(
    run: RunRecord, key: str, terms: AnswerTerms, by: str | None, scopes: Collection[str]
) -> None:
    where = f"approval {key!r} of run {run.run_id}"
    if terms.scope and terms.scope not in scopes:
        raise ApproverError(f"{where} needs the scope {terms.scope!r}, which {by!r} does not have")
    if terms.approvers == "any":
        return
    if by is None:
        raise ApproverError(f"{where} is for {terms.approvers!r}, and nobody says who answers")
    if run.started_by is None:
        raise ApproverError(
            f"{where} is for {terms.approvers!r}, and the run does not say who started it",
            hint="start the run with started_by=",
        )
    if (terms.approvers == "owner") != (by == run.started_by):
        raise ApproverError(
            f"{where} is for {terms.approvers!r}: {by!r} may not answer it, "
            f"as {run.started_by!r} started the run"
        )


def _data(key: str, terms: AnswerTerms, outcome: str, data: Any) -> str | None:
    if terms.schema is None:
        if data is not None:
            from pikku.errors import InvalidInputError

            raise InvalidInputError(f"approval {key!r}", [("data", "the approval takes none")])
        return None
    if data is None and outcome == "rejected":
        return None
    kind = type_at(terms.schema)
    if kind is None:
        raise DeclarationError(
            f"approval {key!r}: the type {terms.schema!r} of its data is not known here",
            hint="answer where the code of the run's workflow is, in the version that asked",
        )
    return codec_for(kind, f"approval {key!r}").admit(data, f"approval {key!r}")
