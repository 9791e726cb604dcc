"""What a failed run is written over with, and what a fork begins with: pure, of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pikku._error_info import steps_of_failure
from pikku._records import (
    ENDED_STEP,
    GIVEN_UP,
    WAITS,
    HistoryEntry,
    LoadedRun,
    PutRun,
    RunRecord,
    StepRecord,
    StepStatus,
    is_job,
)
from pikku.errors import CorruptStateError, NoSuchStepError, RunStateError

HANDLER_SUFFIX = " (on_error)"
UNDO_SUFFIX = " (undo)"


def retried(
    loaded: LoadedRun, from_step: str | None, *, now_us: int, timeout_us: int | None
) -> PutRun:
    """A failed run as it goes on from the steps whose failure ended it, or from its end where none
    did: what succeeded is kept, what was asked for after that failure is forgotten.

    Args:
        from_step: the key of another failed step to go back to.
        timeout_us: how long the run may take from now on.

    Raises:
        RunStateError: the run has not failed, or `from_step` has not; or what it goes back to was
            undone by a saga.
        NoSuchStepError: there is no such step.
    """
    run, steps = loaded.run, loaded.steps
    if run.status != "failed":
        raise RunStateError(
            f"run {run.run_id} is {run.status} and cannot be retried",
            hint="only a failed run is; fork any other, or start another one",
        )
    if is_job(run):
        if from_step is not None:
            step_of(run, steps, from_step)
        return retried_job(loaded, now_us=now_us)
    failed, cut = _cut(run, steps, from_step)
    kept = [step for step in steps if step.after < cut]
    dropped = [step for step in steps if step.after >= cut]
    _refuse_undone(run, kept, dropped)
    again = {step.key for step in kept if _goes_again(step, cut)}
    made: list[StepRecord] = []
    for step in kept:
        if step.kind == "on_error" and step.key.removesuffix(HANDLER_SUFFIX) in again:
            continue
        made.append(_afresh(step) if step.key in again else replace(step))
    deliveries = _number(made, cut)
    retry = replace(
        run,
        status="running",
        output=None,
        error=None,
        run_attempt=run.run_attempt + 1,
        deliveries=deliveries,
        updated_us=now_us,
        finished_us=None,
        cancel_us=None,
        cancel_kind=None,
        cancel_reason=None,
        cancel_delivery=None,
        suspend_reason=None,
    )
    told = _told(run, [*dropped, *(step for step in kept if step.key in again)])
    told.append(
        HistoryEntry("retry", failed.key if failed else None, retry.run_attempt, None, now_us)
    )
    expected: list[tuple[str, int, StepStatus]] = [
        (step.key, step.attempt, step.status) for step in steps
    ]
    return PutRun(retry, made, told, expected, timeout_us)


def retried_job(loaded: LoadedRun, *, now_us: int) -> PutRun:
    """A job that has failed, with its first attempt before it."""
    run, step = loaded.run, loaded.steps[0]
    assert step.status in ENDED_STEP
    retry = replace(
        run,
        status="running",
        output=None,
        error=None,
        run_attempt=run.run_attempt + 1,
        deliveries=0,
        updated_us=now_us,
        finished_us=None,
    )
    again = replace(
        step,
        status="scheduled",
        attempt=step.attempt + 1,
        failures=0,
        lost=0,
        error=None,
        worker=None,
        due_us=None,
        finished_us=None,
        delivery=None,
        progress=None,
    )
    told = [
        HistoryEntry(
            "attempt_failed", step.key, step.attempt, step.error, step.finished_us or now_us
        ),
        HistoryEntry("retry", None, retry.run_attempt, None, now_us),
    ]
    return PutRun(retry, [again], told, [(step.key, step.attempt, step.status)])


def _refuse_undone(
    run: RunRecord, kept: Sequence[StepRecord], dropped: Sequence[StepRecord]
) -> None:
    """A saga that was undone cannot be done again under the same idempotency keys."""
    undone = {_name(step.key).removesuffix(UNDO_SUFFIX) for step in dropped if _undoes(step)}
    for step in kept:
        if step.status == "succeeded" and _name(step.key) in undone:
            raise RunStateError(
                f"run {run.run_id} cannot be retried: step {step.key!r} was undone",
                hint=f"fork it from there, with ids of its own: run.fork({step.key!r})",
            )


def _undoes(step: StepRecord) -> bool:
    return step.kind == "rpc" and _name(step.key).endswith(UNDO_SUFFIX)


def _name(key: str) -> str:
    name, hash, ordinal = key.rpartition("#")
    return name if hash and ordinal.isdigit() else key


def _told(run: RunRecord, steps: Iterable[StepRecord]) -> list[HistoryEntry]:
    """What the records say of what goes again, for the history to keep."""
    entries: list[HistoryEntry] = []
    for step in steps:
        if step.started_us is not None:
            entries.append(
                HistoryEntry("step_started", step.key, step.attempt, None, step.started_us)
            )
        if step.status in ENDED_STEP and step.finished_us is not None:
            data = step.result if step.status == "succeeded" else step.error
            kind = f"step_{step.status}"
            entries.append(HistoryEntry(kind, step.key, step.attempt, data, step.finished_us))
    entries.sort(key=lambda entry: entry.at_us)
    entries.append(HistoryEntry("run_failed", None, None, run.error, run.finished_us or 0))
    return entries


def _cut(
    run: RunRecord, steps: Sequence[StepRecord], from_step: str | None
) -> tuple[StepRecord | None, int]:
    """The step to go back to, and the delivery that told the function of its failure."""
    after_all = run.deliveries + 1
    if from_step is not None:
        step = step_of(run, steps, from_step)
        if step.status != "failed" or step.delivery is None:
            raise RunStateError(
                f"step {from_step!r} of run {run.run_id} has not failed",
                hint="go back to a step that has, or fork the run from this one",
            )
        return step, step.delivery
    if run.cancel_delivery is not None:  # its timeout
        return None, run.cancel_delivery
    ended_it = _what_ended(run, steps)
    first = min(ended_it, key=_place, default=None)
    return first, after_all if first is None else _place(first)


def _what_ended(run: RunRecord, steps: Sequence[StepRecord]) -> list[StepRecord]:
    """The failed steps that ended the run: those after which the function took no further one; else
    those that its error comes from. An earlier failure was dealt with."""
    failures = [step for step in steps if step.status == "failed" and step.delivery is not None]
    gone_past = max((step.after for step in steps if step.kind != "patch"), default=0)
    if last := [step for step in failures if _place(step) > gone_past]:
        return last
    names = steps_of_failure(run.error)
    if names is None:
        return [max(failures, key=_place)] if failures else []
    by_name = {_name(step.key): step for step in sorted(failures, key=_place)}
    return [by_name[name] for name in names if name in by_name]


def _place(step: StepRecord) -> int:
    return step.delivery or 0


def _goes_again(step: StepRecord, cut: int) -> bool:
    if step.kind == "on_error":
        return step.status not in ENDED_STEP
    if step.kind in WAITS:
        return step.status == "failed"
    if step.status == "failed":
        return step.delivery is None or step.delivery >= cut
    return step.status != "succeeded" and step.kind != "suspend"


def _afresh(step: StepRecord) -> StepRecord:
    """The step before its next attempt. The number of the attempt grows, so that nobody who still
    executes the last one is heard."""
    begun = step.status != "pending" and (step.status != "scheduled" or step.worker is not None)
    return replace(
        step,
        status="scheduled",
        attempt=step.attempt + begun,
        failures=0,
        lost=0,
        input=step.input if step.kind in WAITS else None,
        result=None,
        error=None,
        worker=None,
        due_us=step.due_us if step.kind in WAITS else None,
        started_us=None,
        finished_us=None,
        delivery=None,
        queue=None,
        job=step.job if step.kind in WAITS else None,
        handled=False,
        progress=None,
    )


def _number(steps: Iterable[StepRecord], cut: int) -> int:
    """Give what was delivered after the *cut*, and what ended undelivered, the numbers from there
    on; how many outcomes there are."""
    count = cut - 1
    moved = [step for step in steps if step.delivery is not None and step.delivery >= cut]
    moved.sort(key=lambda step: step.delivery or 0)
    late = [
        step
        for step in steps
        if step.delivery is None
        and step.status == "succeeded"
        and step.kind not in ("on_error", "patch")
        and step.error != GIVEN_UP
    ]
    late.sort(key=lambda step: step.finished_us or 0)
    for step in [*moved, *late]:
        count += 1
        step.delivery = count
    return count


def forked(
    loaded: LoadedRun,
    key: str,
    input: str | None,
    *,
    run_id: str,
    inline: bool,
    now_us: int,
    timeout_us: int | None,
) -> PutRun:
    """A new run that has everything of *loaded* up to where the step *key* was asked for.

    Args:
        input: what the step is given instead of what the function gives it, as JSON text.

    Raises:
        NoSuchStepError: there is no such step.
        RunStateError: the function was unwinding there, or the step takes no input.
    """
    run = loaded.run
    if is_job(run):
        raise RunStateError(
            f"run {run.run_id} is a job and cannot be forked", hint="add another job to its queue"
        )
    step = step_of(run, loaded.steps, key)
    if run.cancel_delivery is not None and run.cancel_delivery <= step.after:
        raise RunStateError(
            f"step {key!r} was asked for while run {run.run_id} unwound",
            hint="fork from a step before the cancellation",
        )
    kept: list[StepRecord] = []
    for each in loaded.steps:
        delivered = each.delivery is not None and each.delivery <= step.after
        before = (each.after, each.position) <= (step.after, step.position)
        if delivered or (each.kind == "patch" and before):
            kept.append(replace(each))
    names = {each.key for each in kept}
    kept += [
        replace(each)
        for each in loaded.steps
        if each.kind == "on_error" and each.key.removesuffix(HANDLER_SUFFIX) in names
    ]
    numbers = [each.delivery for each in kept if each.delivery is not None]
    if sorted(numbers) != list(range(1, step.after + 1)):
        raise CorruptStateError(f"run {run.run_id}: outcomes before step {key!r} are missing")
    if input is not None:
        if step.input is None or step.kind not in ("rpc", "child"):
            raise RunStateError(
                f"step {key!r} of run {run.run_id} takes no input",
                hint="replace the input of a step that calls a function or a workflow",
            )
        begins = _afresh(replace(step, status="pending", attempt=1, worker=None))
        kept.append(replace(begins, status="pending", input=input))
    fork = replace(
        run,
        run_id=run_id,
        status="running",
        output=None,
        error=None,
        inline=inline,
        run_attempt=1,
        turn=0,
        deliveries=step.after,
        created_us=now_us,
        updated_us=now_us,
        finished_us=None,
        cancel_us=None,
        cancel_kind=None,
        cancel_reason=None,
        cancel_delivery=None,
        suspend_reason=None,
        parent=None,
        parent_step=None,
        depth=0,
        forked_from=run.run_id,
    )
    return PutRun(fork, kept, [HistoryEntry("fork", key, None, None, now_us)], None, timeout_us)


def step_of(run: RunRecord, steps: Sequence[StepRecord], key: str) -> StepRecord:
    """The step of the run with this *key*.

    Raises:
        NoSuchStepError: there is none.
    """
    for step in steps:
        if step.key == key:
            return step
    raise NoSuchStepError(run.run_id, key, [step.key for step in steps])
