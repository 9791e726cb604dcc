"""What crosses the wire: records, operations and replies as the scripts read and write them.

The mirror of `ops/_prelude.lua`. A value is stored as its UTF-8 text after a `=`, or after a `z`
compressed with zlib, where it is large and that helps.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pikku._records import (
    ENDED_STEP,
    FINAL_STATUSES,
    GIVEN_UP,
    RUN_STATUSES,
    Advertise,
    BeginStep,
    CancelRun,
    Commit,
    CompleteStep,
    CreateRun,
    DecideStep,
    DeleteRun,
    Delivery,
    FireTimers,
    HandRun,
    HistoryEntry,
    Job,
    LoadedRun,
    Op,
    OpCode,
    OpResult,
    PutRun,
    ReapSessions,
    ReleaseRun,
    ReleaseStep,
    ReportProgress,
    RequeueRun,
    ResumeRun,
    RunRecord,
    SignalRun,
    StepKindName,
    StepRecord,
    StepStatus,
    StepWrite,
    WatchRun,
)
from pikku.errors import CorruptStateError
from pikku.stores.base import CALLED_OFF

Arguments = list[Any]


class Caller(NamedTuple):
    """In whose name operations are encoded, at what time, and how long final runs are kept."""

    session: bytes
    now_us: int
    retention_us: int


Encoder = Callable[[Any, Caller], tuple[str, Arguments]]

COMPRESS_FROM = 65_536
# A step's fixed part goes along with its outcome, too, unless its input is longer than this.
SEND_AGAIN_UP_TO = 4_096

STATUSES: tuple[StepStatus, ...] = ("pending", "scheduled", "running", "failed", "succeeded")
KINDS: tuple[StepKindName, ...] = (
    "rpc",
    "inline",
    "sleep",
    "side_effect",
    "on_error",
    "signal",
    "approval",
    "suspend",
    "child",
    "patch",
    "job",
)
CODES: tuple[OpCode, ...] = (
    "ok",
    "exists",
    "conflict",
    "fenced",
    "not_found",
    "settled",
    "not_suspended",
    "error",
    "not_failed",
    "not_ended",
    "decided",
    "nobody",
)
WORDS = ("step", "cancel", "retry", "handle", "stop", "ended", "hand")
_STATUS_NUMBER = {name: number for number, name in enumerate(STATUSES)}
_KIND_NUMBER = {name: number for number, name in enumerate(KINDS)}

_STEP_HEAD = struct.Struct("<BBBIIIIIIdddd")
_WRITE_HEAD = struct.Struct("<BBBIIIIIBdd").pack
_STATIC_HEAD = struct.Struct("<HBiI")
_WORD_HEAD = struct.Struct("<BBIIH")
_ENTRY_HEAD = struct.Struct("<dIBB")


# --- values ---------------------------------------------------------------------------------------


def encode(text: str | None) -> bytes:
    """A value as it is stored; empty for None."""
    if text is None:
        return b""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) >= COMPRESS_FROM:
        small = zlib.compress(raw, 1)
        if len(small) < len(raw):
            return b"z" + small
    return b"=" + raw


def decode(value: bytes | None) -> str | None:
    """The text of a stored value.

    Raises:
        CorruptStateError: if it is none.
    """
    if not value:
        return None
    try:
        if value[0] == 61:
            return value[1:].decode("utf-8", "surrogatepass")
        if value[0] == 122:
            return zlib.decompress(value[1:]).decode("utf-8", "surrogatepass")
    except (zlib.error, UnicodeDecodeError) as error:
        raise CorruptStateError(f"a stored value cannot be read: {error}") from error
    raise CorruptStateError(f"a stored value begins with {value[:1]!r}")


def _outcome(result: str | None, error: str | None) -> bytes:
    if error == GIVEN_UP:
        return b"g" + encode(result)
    if result is not None:
        return b"r" + encode(result)
    return b"e" + encode(error) if error is not None else b""


def _split(outcome: bytes) -> tuple[str | None, str | None]:
    if not outcome:
        return None, None
    value = decode(outcome[1:])
    if outcome[0] == 103:
        return value, GIVEN_UP
    return (value, None) if outcome[0] == 114 else (None, value)


def _marked(text: str | None) -> str:
    return "" if text is None else "=" + text


# --- steps ----------------------------------------------------------------------------------------


def _static(write: StepWrite | StepRecord) -> bytes:
    target = write.target.encode()
    digest = write.digest.encode()
    given = encode(write.input)
    job = encode(write.job)
    head = _STATIC_HEAD.pack(
        len(target), len(digest), -1 if write.input is None else len(given), len(job)
    )
    return b"".join((head, target, digest, given, job))


def _whole(write: StepWrite, delivery: int, by: Caller) -> bytes:
    """The record of a step that only the run's owner has seen to."""
    known = write.known
    assert known is not None
    ended = write.status in ENDED_STEP
    static = _static(write)
    worker = by.session
    return b"".join(
        (
            _STEP_HEAD.pack(
                _STATUS_NUMBER[write.status],
                _KIND_NUMBER[write.kind],
                write.handled,
                write.attempt,
                write.failures,
                write.lost,
                write.position,
                delivery,
                write.after,
                known[0],
                known[1],
                by.now_us if ended else 0.0,
                0.0,
            ),
            bytes((len(worker),)),
            worker,
            b"\0\0\0",
            len(static).to_bytes(4, "little"),
            static,
            _outcome(write.result, write.error),
        )
    )


def _packed(step: StepRecord) -> bytes:
    """The record of a step, as it is."""
    static = _static(step)
    worker, queue = (step.worker or "").encode(), (step.queue or "").encode()
    progress = encode(step.progress)
    return b"".join(
        (
            _STEP_HEAD.pack(
                _STATUS_NUMBER[step.status],
                _KIND_NUMBER[step.kind],
                step.handled + 2 * (step.queue == CALLED_OFF),
                step.attempt,
                step.failures,
                step.lost,
                step.position,
                step.delivery or 0,
                step.after,
                step.created_us,
                step.started_us or 0.0,
                step.finished_us or 0.0,
                step.due_us or 0.0,
            ),
            len(worker).to_bytes(1, "little"),
            worker,
            len(queue).to_bytes(1, "little"),
            queue,
            len(progress).to_bytes(2, "little"),
            progress,
            len(static).to_bytes(4, "little"),
            static,
            _outcome(step.result, step.error),
        )
    )


def step_of(key: bytes, raw: bytes) -> StepRecord:
    """The step whose stored record is *raw*.

    Raises:
        CorruptStateError: if it is none.
    """
    try:
        (
            status,
            kind,
            flags,
            attempt,
            failures,
            lost,
            position,
            delivery,
            after,
            created,
            started,
            finished,
            due,
        ) = _STEP_HEAD.unpack_from(raw)
        at = _STEP_HEAD.size
        end = at + 1 + raw[at]
        worker = raw[at + 1 : end]
        at, end = end, end + 1 + raw[end]
        queue = raw[at + 1 : end]
        at, end = end, end + 2 + int.from_bytes(raw[end : end + 2], "little")
        progress = raw[at + 2 : end]
        at = end + 4
        end = at + int.from_bytes(raw[end:at], "little")
        target_size, digest_size, input_size, job_size = _STATIC_HEAD.unpack_from(raw, at)
        at += _STATIC_HEAD.size
        target = raw[at : at + target_size]
        at += target_size
        digest = raw[at : at + digest_size]
        at += digest_size
        given: bytes | None = None
        if input_size >= 0:
            given = raw[at : at + input_size]
            at += input_size
        job = raw[at : at + job_size]
        if at + job_size != end or end > len(raw):
            raise CorruptStateError(f"the record of step {key.decode()!r} is cut off")
        result, error = _split(raw[end:])
        return StepRecord(
            key.decode(),
            position,
            KINDS[int(kind)],
            target.decode(),
            STATUSES[int(status)],
            attempt,
            failures,
            lost,
            digest.decode(),
            decode(given),
            result,
            error,
            worker.decode() or None,
            int(due) or None,
            int(created),
            int(started) or None,
            int(finished) or None,
            delivery or None,
            queue.decode() or (CALLED_OFF if flags & 2 else None),
            decode(job),
            bool(flags & 1),
            decode(progress),
            after,
        )
    except (struct.error, IndexError, ValueError) as fault:
        raise CorruptStateError(f"the record of step {key!r} cannot be read: {fault}") from fault


# --- runs -----------------------------------------------------------------------------------------


def run_of(run_id: str, flat: Sequence[bytes]) -> RunRecord:
    """The run whose hash is *flat*: names and values in turn.

    Raises:
        CorruptStateError: if it is none.
    """
    fields = {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}
    get = fields.get

    def text(name: bytes) -> str | None:
        return get(name, b"").decode() or None

    def number(name: bytes) -> int | None:
        value = get(name)
        return int(value) if value else None

    try:
        cancelled = number(b"cancel_us")
        started_by = get(b"started_by")
        said = fields[b"status"].decode()
        status: Any = said
        if said not in RUN_STATUSES:
            raise CorruptStateError(f"run {run_id} has the unknown status {status!r}")
        cancel_kind: Any = text(b"cancel_kind")
        return RunRecord(
            run_id,
            fields[b"workflow"].decode(),
            status,
            decode(fields[b"input"]) or "",
            decode(get(b"output")),
            decode(get(b"error")),
            fields[b"version"].decode(),
            fields[b"inline"] == b"1",
            int(fields[b"run_attempt"]),
            text(b"owner"),
            fields[b"queued"] == b"1",
            int(fields[b"turn"]),
            text(b"turned_by"),
            int(fields[b"deliveries"]),
            tuple(fields[b"tags"].decode().split("\0")) if fields[b"tags"] else (),
            None if started_by is None else started_by.decode(),
            int(fields[b"created_us"]),
            int(fields[b"updated_us"]),
            number(b"finished_us"),
            cancelled,
            cancel_kind,
            None if cancelled is None else get(b"cancel_reason", b"").decode(),
            number(b"cancel_delivery"),
            text(b"suspend_reason"),
            text(b"parent"),
            text(b"parent_step"),
            number(b"depth") or 0,
            get(b"pinned") == b"1",
            text(b"forked_from"),
            text(b"traceparent"),
        )
    except (KeyError, ValueError, AttributeError, TypeError, IndexError) as fault:
        raise CorruptStateError(f"the record of run {run_id} cannot be read: {fault!r}") from fault


def loaded_of(parts: Sequence[Any]) -> LoadedRun:
    """The run with its steps: `[run id, run hash, steps hash]`."""
    run_id: str = parts[0].decode(errors="replace")
    run = run_of(run_id, parts[1])
    flat: Sequence[bytes] = parts[2]
    steps = [step_of(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    steps.sort(key=lambda step: step.position)
    return LoadedRun(run, tuple(steps))


def job_of(parts: Sequence[Any]) -> Job:
    """A claimed job: `[run id, workflow, key, step record]`."""
    run_id, workflow, key, raw = parts
    if not isinstance(workflow, bytes):
        raise CorruptStateError("its run has no workflow")
    return Job(run_id.decode(errors="replace"), workflow.decode(), step_of(key, raw))


def delivery_of(word: bytes) -> Delivery:
    """A word from the inbox.

    Raises:
        CorruptStateError: if it is none.
    """
    try:
        return _delivery_of(word)
    except (struct.error, IndexError, ValueError) as fault:
        raise CorruptStateError(f"a word in an inbox cannot be read: {fault}") from fault


def _delivery_of(word: bytes) -> Delivery:
    what, status, number, attempt, run_size = _WORD_HEAD.unpack_from(word)
    at = _WORD_HEAD.size
    run_id = word[at : at + run_size].decode()
    at += run_size
    end = at + 4 + int.from_bytes(word[at : at + 4], "little")
    key = word[at + 4 : end].decode()
    result, error = _split(word[end:])
    kind: Any = WORDS[int(what)]
    names: Sequence[str] = RUN_STATUSES if kind == "ended" else STATUSES[1:]
    spoken: Any = names[int(status) - 1] if status else None
    return Delivery(run_id, number, key, kind, spoken, result, error, attempt)


def entry_of(raw: bytes) -> HistoryEntry:
    """A line of a run's history.

    Raises:
        CorruptStateError: if it is none.
    """
    try:
        return _entry_of(raw)
    except (struct.error, IndexError, ValueError) as fault:
        raise CorruptStateError(f"a line of a history cannot be read: {fault}") from fault


def _entry_of(raw: bytes) -> HistoryEntry:
    at_us, attempt, has_step, kind_size = _ENTRY_HEAD.unpack_from(raw)
    at = _ENTRY_HEAD.size
    kind = raw[at : at + kind_size].decode()
    at += kind_size
    end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
    step = raw[at + 4 : end].decode() if has_step else None
    return HistoryEntry(kind, step, attempt or None, decode(raw[end:]), int(at_us))


RESULTS = [OpResult(code) for code in CODES]


# --- operations -----------------------------------------------------------------------------------


def _create_run(op: CreateRun, by: Caller) -> tuple[str, Arguments]:
    return "create_run", _of_new_run(op)


def _of_new_run(op: CreateRun) -> Arguments:
    return [
        op.run_id,
        op.workflow,
        encode(op.input),
        op.version,
        int(op.inline),
        int(op.claim),
        "\0".join(op.tags),
        _marked(op.started_by),
        "" if op.timeout_us is None else op.timeout_us,
        op.parent or "",
        op.parent_step or "",
        op.depth,
        int(op.pinned),
        "" if op.delay_us is None else op.delay_us,
        op.traceparent or "",
        *_of_new_job(op.job),
    ]


def _of_new_job(job: StepWrite | None) -> Arguments:
    if job is None:
        return ["", "", "", ""]
    return [job.key, _head(job), job.queue or "", _static(job)]


def _head(write: StepWrite) -> bytes:
    return _WRITE_HEAD(
        _STATUS_NUMBER[write.status],
        _KIND_NUMBER[write.kind],
        write.handled,
        write.attempt,
        write.failures,
        write.lost,
        write.position,
        write.after,
        write.deliver,
        -1.0 if write.wait_us is None else write.wait_us,
        0.0 if write.until_us is None else write.until_us,
    )


def _commit(op: Commit, by: Caller) -> tuple[str, Arguments]:
    whole: Arguments = []
    delivery = op.base
    delivered = 0
    ends, asks = op.ends, op.asks
    if delivery is not None:
        # Writes from the first on that say all there is: the script need not look at old records.
        place = 0
        for write in ends:
            if write.known is None or len(write.input or "") > SEND_AGAIN_UP_TO:
                break
            number = delivery + delivered + 1 if write.deliver else 0
            delivered += write.deliver
            whole += (write.key, _whole(write, number, by))
            place += 1
        ends = ends[place:]
    if asks and all(write.known is not None for write in asks):
        for write in asks:
            whole += (write.key, _whole(write, 0, by))
        asks = ()
    given: Arguments = [
        op.run_id,
        op.turn,
        -1 if op.base is None else op.base,
        len(whole),
        *whole,
        delivered,
        len(ends) + len(asks),
    ]
    for writes, ended in ((ends, True), (asks, False)):
        for write in writes:
            (
                key,
                position,
                kind,
                _,
                status,
                attempt,
                failures,
                lost,
                _,
                input,
                result,
                error,
                wait_us,
                until_us,
                deliver,
                queue,
                _,
                handled,
                _,
                after,
            ) = write
            again = not ended or input is None or len(input) <= SEND_AGAIN_UP_TO
            given += (
                key,
                _WRITE_HEAD(
                    _STATUS_NUMBER[status],
                    _KIND_NUMBER[kind],
                    handled,
                    attempt,
                    failures,
                    lost,
                    position,
                    after,
                    deliver,
                    -1.0 if wait_us is None else wait_us,
                    0.0 if until_us is None else until_us,
                ),
                queue or "",
                _static(write) if again else b"",
                _outcome(result, error),
            )
    given.append(len(op.history))
    for entry in op.history:
        given += (entry.kind, _marked(entry.step), entry.attempt or 0, encode(entry.data))
    settle = op.settle
    if settle is None:
        given += _NO_SETTLE
    else:
        given += (
            settle.status,
            encode(settle.output),
            encode(settle.error),
            _marked(settle.reason),
            encode(json.dumps(settle.reason)) if settle.status == "suspended" else b"",
            int(settle.unwinding if settle.status == "suspended" else settle.withdraw),
            by.retention_us,
        )
    if op.cancel_reason is None:
        given += _NO_CANCEL
    else:
        given += (_marked(op.cancel_reason), _cancel_data("cancel", op.cancel_reason))
    if op.children or op.calls_off:
        given.append(len(op.children))
        for child in op.children:
            given += _of_new_run(child)
        given += (len(op.calls_off), *op.calls_off)
    return "commit", given


_NO_SETTLE = ("", "", "", "", "", 0, 0)
_NO_CANCEL = ("", "")


def _cancel_data(kind: str, reason: str) -> bytes:
    return encode(json.dumps({"kind": kind, "reason": reason}))


def _complete_step(op: CompleteStep, by: Caller) -> tuple[str, Arguments]:
    return "complete_step", [
        op.run_id,
        op.key,
        op.attempt,
        _STATUS_NUMBER[op.status],
        _outcome(op.result, op.error),
        -1 if op.retry_us is None else op.retry_us,
        int(op.forget),
        by.retention_us,
    ]


def _begin_step(op: BeginStep, by: Caller) -> tuple[str, Arguments]:
    return "begin_step", list(op)


def _release_step(op: ReleaseStep, by: Caller) -> tuple[str, Arguments]:
    return "release_step", [op.run_id, op.key, op.attempt, op.wait_us or 0, by.retention_us]


def _report_progress(op: ReportProgress, by: Caller) -> tuple[str, Arguments]:
    return "report_progress", [op.run_id, op.key, op.attempt, encode(op.progress)]


def _cancel_run(op: CancelRun, by: Caller) -> tuple[str, Arguments]:
    data = _cancel_data(op.kind, op.reason)
    forced = encode(op.forced)
    return "cancel_run", [op.run_id, op.kind, op.reason, data, forced, by.retention_us]


def _resume_run(op: ResumeRun, by: Caller) -> tuple[str, Arguments]:
    timeout_us = "" if op.timeout_us is None else op.timeout_us
    return "resume_run", [op.run_id, timeout_us, by.retention_us]


def _release_run(op: ReleaseRun, by: Caller) -> tuple[str, Arguments]:
    return "release_run", [op.run_id]


def _requeue_run(op: RequeueRun, by: Caller) -> tuple[str, Arguments]:
    return "requeue_run", [op.run_id, by.retention_us]


def _watch_run(op: WatchRun, by: Caller) -> tuple[str, Arguments]:
    return "watch_run", [op.run_id]


def _signal_run(op: SignalRun, by: Caller) -> tuple[str, Arguments]:
    return "signal_run", [op.run_id, op.signal_id, op.name, encode(op.payload)]


def _decide_step(op: DecideStep, by: Caller) -> tuple[str, Arguments]:
    return "decide_step", [op.run_id, op.key, encode(op.decision)]


def _put_run(op: PutRun, by: Caller) -> tuple[str, Arguments]:
    run = op.run
    kept_until = 0
    if by.retention_us and run.status in FINAL_STATUSES:
        kept_until = (run.finished_us or by.now_us) + by.retention_us
    given: Arguments = [
        run.run_id,
        run.run_attempt,
        "" if op.timeout_us is None else op.timeout_us,
        kept_until,
        -1 if op.expected is None else len(op.expected),
    ]
    for key, attempt, status in op.expected or ():
        given += (key, attempt, _STATUS_NUMBER[status])
    fields = _fields_of(run)
    given += (len(fields), *fields, len(op.steps))
    for step in op.steps:
        given += (step.key, _packed(step))
    given.append(len(op.history))
    for entry in op.history:
        given += (entry.kind, _marked(entry.step), entry.attempt or 0, encode(entry.data))
        given.append(entry.at_us)
    return "put_run", given


def _fields_of(run: RunRecord) -> Arguments:
    """The hash of a run, apart from what the store decides: who has it, and in which turn it is
    where it was there before."""
    given: dict[str, Any] = {
        "workflow": run.workflow,
        "status": run.status,
        "input": encode(run.input),
        "version": run.version,
        "inline": int(run.inline),
        "run_attempt": run.run_attempt,
        "turn": run.turn,
        "deliveries": run.deliveries,
        "tags": "\0".join(run.tags),
        "created_us": run.created_us,
        "updated_us": run.updated_us,
        "output": encode(run.output),
        "error": encode(run.error),
        "depth": run.depth,
        "pinned": int(run.pinned),
    }
    for name in _RUN_EXTRAS:
        value = getattr(run, name)
        if value is not None:
            given[name] = value
    return [part for pair in given.items() for part in pair]


_RUN_EXTRAS = (
    "started_by",
    "finished_us",
    "cancel_us",
    "cancel_kind",
    "cancel_reason",
    "cancel_delivery",
    "suspend_reason",
    "parent",
    "parent_step",
    "forked_from",
    "traceparent",
)


def _delete_run(op: DeleteRun, by: Caller) -> tuple[str, Arguments]:
    return "delete_run", [op.run_id]


def _advertise(op: Advertise, by: Caller) -> tuple[str, Arguments]:
    return "advertise", list(op.holds)


def _hand_run(op: HandRun, by: Caller) -> tuple[str, Arguments]:
    return "hand_run", [op.run_id, *op.wanted]


def _fire_timers(op: FireTimers, by: Caller) -> tuple[str, Arguments]:
    return "fire_timers", [op.limit]


def _reap_sessions(op: ReapSessions, by: Caller) -> tuple[str, Arguments]:
    poisoned = b"e" + encode(op.poisoned)
    return "reap_sessions", [op.limit, op.max_lost, poisoned, by.retention_us]


_ENCODERS: dict[type, Encoder] = {
    CreateRun: _create_run,
    Commit: _commit,
    CompleteStep: _complete_step,
    BeginStep: _begin_step,
    ReleaseStep: _release_step,
    ReportProgress: _report_progress,
    CancelRun: _cancel_run,
    ResumeRun: _resume_run,
    ReleaseRun: _release_run,
    RequeueRun: _requeue_run,
    WatchRun: _watch_run,
    SignalRun: _signal_run,
    DecideStep: _decide_step,
    PutRun: _put_run,
    DeleteRun: _delete_run,
    Advertise: _advertise,
    HandRun: _hand_run,
    FireTimers: _fire_timers,
    ReapSessions: _reap_sessions,
}


def encode_op(op: Op, by: Caller) -> Arguments:
    """*op* as the script reads it: its name, how many arguments, and these."""
    name, arguments = _ENCODERS[type(op)](op, by)
    return [name, len(arguments), *arguments]


def weight(op: Op) -> int:
    """How long the values in *op* are together, in characters."""
    if type(op) is Commit:
        total = len(op.settle.output or "") if op.settle is not None else 0
        for writes in (op.ends, op.asks):
            for write in writes:
                total += len(write.input or "") + len(write.result or "") + len(write.error or "")
        return total + sum(len(child.input) for child in op.children)
    if type(op) is CompleteStep:
        return len(op.result or "") + len(op.error or "")
    if type(op) is CreateRun:
        return len(op.input) + (len(op.job.input or "") if op.job is not None else 0)
    if type(op) is SignalRun:
        return len(op.payload)
    if type(op) is DecideStep:
        return len(op.decision)
    if type(op) is PutRun:
        return _weight_of_run(op)
    return 0


def _weight_of_run(op: PutRun) -> int:
    total = len(op.run.input) + len(op.run.output or "") + len(op.run.error or "")
    for step in op.steps:
        total += len(step.input or "") + len(step.result or "") + len(step.error or "")
    return total + sum(len(entry.data or "") for entry in op.history)
