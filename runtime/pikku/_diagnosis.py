"""Whether a run has a next action, proven from its records and what the store has under way.

Pure. A running run has one if a live session owns it, or it stands in a queue, or it is parked and
each of its open steps has a job, a live holder, a timer or an unfinished child run of its own, or
waits for a word from outside that has no due time. A run with a delayed start has a timer. Word in
the inbox of a live owner counts as under way.
"""

from __future__ import annotations

import itertools
import json
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from pikku._payloads import is_sealed
from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    GIVEN_UP,
    RUN_STATUSES,
    WAITS,
    Examination,
    LoadedRun,
    RunRecord,
    StepKindName,
    StepRecord,
    StepStatus,
    is_forsaken,
    is_job,
    is_wanted,
)

STEP_STATUSES: tuple[str, ...] = typing.get_args(StepStatus)
STEP_KINDS: tuple[str, ...] = typing.get_args(StepKindName)
NAMED_AT_MOST = 5

Kind = Literal[
    "corrupt",
    "owner",
    "queue",
    "unattended",
    "job",
    "holder",
    "timer",
    "child",
    "gone",
    "left_behind",
]


class Symptom(NamedTuple):
    """What is wrong with a run.

    `left_behind` is put right by the next process that executes runs: a lease has run out, and the
    store still knows whose it was; or by the run's owner, who looks now and then for steps that
    others have begun and only the owner executes. `corrupt` and `gone` are what no requeueing
    mends. `seen` is the state that it was found in: the same symptom in another state is another
    one.
    """

    kind: Kind
    text: str
    step: str | None = None
    seen: tuple[object, ...] = ()

    @property
    def mends(self) -> bool:
        """Whether requeueing the run puts it right."""
        return self.kind not in ("corrupt", "gone")

    @property
    def heals(self) -> bool:
        return self.kind == "left_behind"


def awaited_children(loaded: LoadedRun) -> list[str]:
    """The ids of the runs that the run waits for."""
    return [
        step.job
        for step in loaded.steps
        if step.kind == "child" and step.job is not None and is_wanted(step, loaded.run)
    ]


def diagnose(
    loaded: LoadedRun,
    found: Examination,
    ended: Collection[str] = (),
    gone: Collection[str] = (),
) -> list[Symptom]:
    """What is wrong with an unfinished run; nothing for a final one. *ended* are those of its
    children that are final, *gone* those that are not there.

    All this was read one after the other, and a run that moves looks wrong in between: only what
    shows again and again, in the same state, is wrong.
    """
    run = loaded.run
    if run.status in FINAL_STATUSES:
        return []
    symptoms = [*corruption(loaded)]
    if run.status == "running":
        symptoms += _inaction(loaded, found, ended, gone)
    return symptoms


def _inaction(
    loaded: LoadedRun, found: Examination, ended: Collection[str], gone: Collection[str]
) -> Iterator[Symptom]:
    run = loaded.run
    seen = (run.turn, run.owner, run.queued, run.deliveries)
    if run.owner is not None and (lapse := _lapse(run.owner, found)) is not None:
        if lapse == "left_behind":
            yield Symptom(lapse, "was left behind: the lease of its process has run out", seen=seen)
        else:
            yield Symptom("owner", "belongs to a session that the store does not know", seen=seen)
    if run.queued and run.run_id not in found.queued:
        yield Symptom("queue", "is marked as queued and stands in no queue", seen=seen)
    attended = run.owner is not None or run.queued
    waits = [step for step in loaded.steps if is_wanted(step, run)]
    for step in waits:
        yield from _step_inaction(run.run_id, step, found, attended, ended, gone)
        if is_forsaken(step, run) and run.owner is not None and _lapse(run.owner, found) is None:
            text = f"step {step.key!r} was left behind by a session that does not own the run"
            yield Symptom("left_behind", text, step.key, (step.attempt, step.worker, run.owner))
    if attended or (waits and (run.cancel_us is None or is_job(run))):
        return
    if not (run.turn or loaded.steps) and (run.run_id, "", "start") in found.timers:
        return
    why = "waits for nothing that could happen"
    if run.cancel_us is not None:
        why = "was asked to unwind, and nobody sees to it"
    yield Symptom("unattended", why, seen=seen)


def _step_inaction(
    run_id: str,
    step: StepRecord,
    found: Examination,
    attended: bool,
    ended: Collection[str],
    gone: Collection[str],
) -> Iterator[Symptom]:
    key = step.key
    seen = (step.status, step.attempt, step.worker, step.due_us)
    retry = (run_id, key, "retry") in found.timers
    if step.kind in WAITS:
        timed = step.kind == "sleep" or step.due_us is not None
        if timed and (run_id, key, "sleep") not in found.timers:
            what = "sleeps" if step.kind == "sleep" else "has to end in time, and is"
            yield Symptom("timer", f"step {key!r} {what} without a timer", key, seen)
    elif step.kind == "child":
        if step.job is None and not attended:
            yield Symptom("child", f"step {key!r} waits for a run that nobody starts", key, seen)
        elif step.job is not None and step.job in ended:
            text = f"step {key!r} waits for run {step.job}, which has ended"
            yield Symptom("child", text, key, (*seen, step.job))
        elif step.job is not None and step.job in gone:
            text = f"step {key!r} waits for run {step.job}, which is not there"
            yield Symptom("gone", text, key, (*seen, step.job))
    elif step.queue is None:
        if step.status == "scheduled" and step.due_us is not None and step.due_us > found.now_us:
            if not retry:
                text = f"attempt {step.attempt} of step {key!r} waits for its time without a timer"
                yield Symptom("timer", text, key, seen)
        elif not attended and not retry:
            text = f"step {key!r} is {step.status} and nobody executes the run"
            yield Symptom("unattended", text, key, seen)
    elif step.worker is not None:
        match _lapse(step.worker, found):
            case "left_behind":
                text = f"step {key!r} was left behind: the lease of its worker has run out"
                yield Symptom("left_behind", text, key, seen)
            case "unknown":
                text = f"step {key!r} is held by a session that the store does not know"
                yield Symptom("holder", text, key, seen)
            case None:
                pass
    elif step.status == "running":
        yield Symptom("holder", f"step {key!r} is running and nobody holds it", key, seen)
    elif (run_id, key, step.attempt) not in found.jobs and not retry:
        text = f"step {key!r} is scheduled on queue {step.queue!r} and has no job there"
        yield Symptom("job", text, key, seen)


def _lapse(session: str, found: Examination) -> Literal["left_behind", "unknown"] | None:
    until = found.sessions.get(session)
    if until is None:
        return "unknown"
    return "left_behind" if until < found.now_us else None


def corruption(loaded: LoadedRun) -> Iterator[Symptom]:
    """What is wrong with the records of a run, whatever the store has under way."""
    run = loaded.run
    if run.status not in RUN_STATUSES:
        yield _corrupt(f"its status is {run.status!r}")
    if run.run_attempt < 1:
        yield _corrupt(f"its attempt is number {run.run_attempt}")
    yield from _no_json((("input", run.input), ("error", run.error)), None)
    for step in loaded.steps:
        key = step.key
        if step.status not in STEP_STATUSES:
            yield _corrupt(f"the status of step {key!r} is {step.status!r}", key)
        if step.kind not in STEP_KINDS:
            yield _corrupt(f"the kind of step {key!r} is {step.kind!r}", key)
        if step.attempt < 1:
            yield _corrupt(f"the attempt of step {key!r} is number {step.attempt}", key)
        values = (
            ("input", step.input),
            ("result", step.result),
            ("error", step.error),
            ("job", None if step.kind == "child" else step.job),
        )
        yield from _no_json(values, key)
        undelivered = step.kind in ("on_error", "patch") or step.error == GIVEN_UP
        if step.status == "succeeded" and step.delivery is None and not undelivered:
            yield _corrupt(f"the outcome of step {key!r} has no place in the run's order", key)
    yield from _disorder(run, loaded.steps)


def _disorder(run: RunRecord, steps: Sequence[StepRecord]) -> Iterator[Symptom]:
    """What is wrong with the delivery numbers: 1 to `run.deliveries`, each there once."""
    numbers = Counter(step.delivery for step in steps if step.delivery is not None)
    if run.cancel_delivery is not None:
        numbers[run.cancel_delivery] += 1
    for step in steps:
        if step.delivery is not None and step.status not in ENDED_STEP:
            text = f"step {step.key!r} has outcome number {step.delivery} and is {step.status}"
            yield _corrupt(text, step.key)
    missing = (each for each in range(1, run.deliveries + 1) if each not in numbers)
    doubled = [each for each, count in numbers.items() if count > 1]
    strange = [each for each in numbers if not 1 <= each <= run.deliveries]
    for what, found in (
        ("missing", missing),
        ("there twice", sorted(doubled)),
        ("out of range", sorted(strange)),
    ):
        named = [str(each) for each in itertools.islice(found, NAMED_AT_MOST + 1)]
        if named:
            listed = ", ".join(named[:NAMED_AT_MOST]) + (", …" * (len(named) > NAMED_AT_MOST))
            yield _corrupt(f"of {run.deliveries} outcomes, number {listed} is {what}")


def _no_json(values: Iterable[tuple[str, str | None]], key: str | None) -> Iterator[Symptom]:
    for name, text in values:
        if text is None or is_sealed(text):
            continue
        try:
            json.loads(text)
        except RecursionError:
            continue
        except ValueError:
            whose = "its" if key is None else f"step {key!r}: its"
            yield _corrupt(f"{whose} {name} is no JSON", key)


def _corrupt(text: str, key: str | None = None) -> Symptom:
    return Symptom("corrupt", f"its records make no sense: {text}", key)
