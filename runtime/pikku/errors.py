"""Every exception a user of pikku can meet, drawn as a tree, each with a code and the way out.

    PikkuError
    ├─ ConfigurationError  PKR1xx  StoreUrlError · MissingDependencyError · SettingError
    │                              AppNotOpenError · AppNotFoundError · ExposureError
    ├─ RegistrationError   PKR2xx  UnknownFunctionError · UnknownWorkflowError
    │                              DuplicateNameError · DeclarationError · UnknownSignalError
    │                              UnknownQueueError · UnknownScheduleError
    ├─ WorkflowError       PKR3xx  NonDeterminismError · StepFailedError · RunFailedError
    │                              RunCancelledError · RunNotFoundError · RunConflictError
    │                              PayloadError · InvalidInputError · ResultTimeoutError
    │                              DurationError · StepNameError · WorkflowBodyError
    │                              StepTimeoutError · PoisonedStepError · RunTimeoutError
    │                              RunStateError · RunIdError · ProcessDiedError
    │                              ProgressError · PayloadTooLargeError · VersionError
    │                              SignalTimeoutError · NoSuchStepError · AlreadyDecidedError
    │                              ApproverError · DepthLimitError · FanOutError
    │                              CompensationError · HistoryFormatError
    │                              ReplayDivergedError
    ├─ QueueError          PKR4xx  LeaseLostError · JobFailedError · JobCancelledError
    │                              JobNotFoundError · JobStateError
    ├─ StoreError          PKR5xx  StoreUnavailableError · SchemaVersionError
    │                              StoreReadOnlyError · StoreFullError · CorruptStoreError
    │                              StoreUnsafeError · TransactionError
    │                              CorruptStateError · SealError
    ├─ CallError           PKR6xx  RpcDepthError · PermissionDeniedError · UnauthorizedError
    └─ InternalError       PKR9xx

    raised by authors, on purpose:  TerminalError (do not retry) · RetryError (try again after …)
                                    PublicError (its words may be shown to callers)
    control flow, private:          Discarded(BaseException)

A class's docstring is its sentence in docs/errors.md, `remedy` the advice beside it.
Messages name what was given and where; hints name the next action.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pikku._error_info import ErrorInfo


class PikkuError(Exception):
    """Something pikku refuses or reports."""

    code: ClassVar[str] = "PKR000"
    remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint if hint is not None else self.remedy
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.code} {self.message}" + (f" ({self.hint})" if self.hint else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the names closest to `name`, or with what there is; empty without any."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(each) for each in close) + "?"
    if not names:
        return ""
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"known: {shown}"


# --- configuration ------------------------------------------------------------


class ConfigurationError(PikkuError):
    """The settings, the installation or the way the app was opened do not fit."""

    code = "PKR100"


def masked(url: str) -> str:
    """*url* without its password, as it may be shown."""
    head, at, host = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    if not at or not slashes or ":" not in user:
        return url
    return f"{scheme}://{user.partition(':')[0]}:***@{host}"


class StoreUrlError(ConfigurationError):
    """The store's URL names no store that pikku knows."""

    code = "PKR101"
    remedy = (
        "expected sqlite:///path/to/runs.db, postgresql://host/database, redis://host:6379/0 or"
        " memory://"
    )

    def __init__(self, url: str, *, reason: str = "unknown store URL", hint: str | None = None):
        self.url = masked(url)
        super().__init__(f"{reason}: {self.url!r}", hint=hint)


class MissingDependencyError(ConfigurationError):
    """An optional package is needed and not installed."""

    code = "PKR102"

    def __init__(self, needed_for: str, extra: str):
        self.extra = extra
        super().__init__(
            f"{needed_for} needs a package that is not installed",
            hint=f"pip install 'pikku[{extra}]'",
        )


class SettingError(ConfigurationError):
    """A setting is unknown or has a value it cannot have."""

    code = "PKR103"
    remedy = "docs/configuration.md lists every setting"


class AppNotOpenError(ConfigurationError):
    """A call needs the open app, and no app is open in this process."""

    code = "PKR104"
    remedy = "write `async with app:` around it, or `with open_app() as shop:` in a plain script"


class AppNotFoundError(ConfigurationError):
    """A command cannot find the app it should work on."""

    code = "PKR105"
    remedy = "pass --app PACKAGE, set PIKKU_APP, or run inside a folder with [tool.pikku]"


class ExposureError(ConfigurationError):
    """Other machines could reach the app, and no `authorize` hook asks who they are."""

    code = "PKR106"
    remedy = (
        'name a hook, [tool.pikku] authorize = "shop.auth:authorize", and run pikku-gen; or serve'
        " on 127.0.0.1"
    )


# --- registration -------------------------------------------------------------


class RegistrationError(PikkuError):
    """What was declared cannot be registered or is not there."""

    code = "PKR200"


class UnknownFunctionError(RegistrationError):
    """A name or object that should be a registered function is none."""

    code = "PKR201"

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        super().__init__(f"unknown function {name!r}", hint=nearest(name, known))


class UnknownWorkflowError(RegistrationError):
    """A name or object that should be a wired workflow is none."""

    code = "PKR202"

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        super().__init__(f"unknown workflow {name!r}", hint=nearest(name, known))


class UnknownSignalError(RegistrationError):
    """A name that should be a declared signal is none."""

    code = "PKR205"

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        super().__init__(f"unknown signal {name!r}", hint=nearest(name, known))


class UnknownQueueError(RegistrationError):
    """A name that should be a queue with a function wired to it is none."""

    code = "PKR206"

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        super().__init__(f"no function is wired to queue {name!r}", hint=nearest(name, known))


class UnknownScheduleError(RegistrationError):
    """A name that should be a wired schedule is none."""

    code = "PKR207"

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        super().__init__(f"unknown schedule {name!r}", hint=nearest(name, known))


class DuplicateNameError(RegistrationError):
    """Two declarations claim one name."""

    code = "PKR203"
    remedy = "give one of them another name="


class DeclarationError(RegistrationError):
    """A decorated function has options, parameters or annotations that cannot work."""

    code = "PKR204"


# --- workflows ----------------------------------------------------------------


class WorkflowError(PikkuError):
    """Something about a run or one of its steps."""

    code = "PKR300"


class NonDeterminismError(WorkflowError):
    """A run's code no longer asks for what its history recorded."""

    code = "PKR301"
    remedy = (
        "the usual causes: the workflow was edited while runs were in flight, or its body reads "
        "the clock, randomness or other state that changes; deploy the matching code and resume"
    )


class StepFailedError(WorkflowError):
    """A step failed after its last attempt; raised at its `await`."""

    code = "PKR302"

    def __init__(self, error: ErrorInfo, step_name: str, attempt_count: int):
        self.error = error
        self.step_name = step_name
        self.attempt_count = attempt_count
        attempts = "1 attempt" if attempt_count == 1 else f"{attempt_count} attempts"
        super().__init__(
            f"step {step_name!r} failed after {attempts}: {error.type}: {error.message}",
            hint=error.hint or "",
        )

    def caused_by(self, kind: type[BaseException], /) -> bool:
        """Whether the error that the step raised was a *kind* (subclasses count)."""
        return self.error.is_a(kind)


class RunFailedError(WorkflowError):
    """A run ended as `failed`; raised by `result()`."""

    code = "PKR303"

    def __init__(self, run_id: str, workflow: str, error: ErrorInfo):
        self.run_id = run_id
        self.workflow = workflow
        self.error = error
        super().__init__(
            f"run {run_id} of {workflow!r} failed: {error.type}: {error.message}",
            hint=error.hint or "",
        )

    def caused_by(self, kind: type[BaseException], /) -> bool:
        """Whether the error that ended the run was a *kind* (subclasses count)."""
        return self.error.is_a(kind)


class RunCancelledError(WorkflowError):
    """A run was cancelled; raised by `result()`."""

    code = "PKR304"

    def __init__(self, run_id: str, workflow: str, reason: str):
        self.run_id = run_id
        self.workflow = workflow
        self.reason = reason
        super().__init__(f"run {run_id} of {workflow!r} was cancelled: {reason}", hint="")


class RunNotFoundError(WorkflowError):
    """No run has this id in this store."""

    code = "PKR305"
    remedy = "`pikku runs list` shows what the store holds"

    def __init__(self, run_id: str, *, store: str):
        self.run_id = run_id
        super().__init__(f"no run {run_id!r} in {store}")


class RunConflictError(WorkflowError):
    """A run with this id exists and was started with another workflow or input."""

    code = "PKR306"
    remedy = "use another run_id, or the same workflow and input to get the existing run"


class PayloadError(WorkflowError):
    """A value cannot be stored and read back unchanged."""

    code = "PKR307"

    def __init__(self, where: str, path: str, problem: str, *, hint: str | None = None):
        self.where = where
        self.path = path
        self.problem = problem
        super().__init__(": ".join(part for part in (where, path, problem) if part), hint=hint)


class InvalidInputError(WorkflowError):
    """The input does not fit the type that the function or workflow declares."""

    code = "PKR308"

    def __init__(
        self,
        where: str,
        problems: list[tuple[str, str]],
        *,
        places: Sequence[tuple[str | int, ...]] = (),
    ):
        self.where = where
        self.problems = problems
        self.places = tuple(places)
        listed = "; ".join(f"{path}: {problem}" for path, problem in problems)
        super().__init__(f"invalid input for {where}: {listed}", hint="")


class ResultTimeoutError(WorkflowError):
    """`result(timeout=…)` ran out before the run ended. The run goes on."""

    code = "PKR309"
    remedy = "wait again, or follow it with `pikku runs show`"


class DurationError(WorkflowError):
    """A duration is written in a form that could be misread."""

    code = "PKR310"
    remedy = "write '500ms', '5s', '5min', '2h', '1d', '1w', '1h30min', 'PT5M' or a timedelta"


class StepNameError(WorkflowError):
    """A step's name is empty, too long or no string."""

    code = "PKR311"
    remedy = 'give each step a short description of what it does, such as "Charge card"'


class WorkflowBodyError(WorkflowError):
    """A workflow body did what cannot be replayed: a timer, a thread, a direct call."""

    code = "PKR312"


class StepTimeoutError(WorkflowError):
    """An attempt took longer than the step's `timeout`."""

    code = "PKR313"
    remedy = ""


class PoisonedStepError(WorkflowError):
    """A step was given up: every process that executed it died in the attempt."""

    code = "PKR314"
    remedy = "look for what kills the process: memory, a native crash, os._exit"


class RunTimeoutError(WorkflowError):
    """A run took longer than its workflow's `timeout`."""

    code = "PKR315"


class RunStateError(WorkflowError):
    """The run is in a state in which the request makes no sense."""

    code = "PKR316"


class VersionError(WorkflowError):
    """A run is pinned to a version of its workflow that this process does not hold."""

    code = "PKR330"
    remedy = "keep a process with that version until its pinned runs have ended"


class RunIdError(WorkflowError):
    """A caller's own run id is empty, too long or has characters that ids cannot have."""

    code = "PKR317"
    remedy = "use 1 to 200 printable characters without spaces, braces and |"


class ProcessDiedError(WorkflowError):
    """The child process that executed a step of `executor="process"` died in the attempt."""

    code = "PKR318"
    remedy = "look for what kills the process: memory, a native crash, os._exit"


class ProgressError(WorkflowError):
    """The progress that a step reports is no number from 0 to 1."""

    code = "PKR319"
    remedy = "report the share that is done: ctx.step.progress(rows_done / rows)"


class PayloadTooLargeError(PayloadError):
    """A value is larger than `max_payload_bytes` as JSON; nothing of it was stored."""

    code = "PKR320"
    remedy = "keep the value elsewhere and pass a reference to it, such as a path, a key or an id"

    def __init__(self, where: str, size: int, limit: int):
        self.size = size
        self.limit = limit
        has, may = _in_units(size), _in_units(limit)
        if has == may:
            has, may = f"{size:,} bytes", f"{limit:,} bytes"
        super().__init__(where, "", f"too large: {has} as JSON, and the limit is {may}")


class SignalTimeoutError(WorkflowError, TimeoutError):
    """A signal did not come within the `timeout` of the step that waits for it."""

    code = "PKR321"

    def __init__(self, step: str, signal: str):
        super().__init__(f"step {step!r}: signal {signal!r} did not come in time", hint="")


class NoSuchStepError(WorkflowError):
    """The run has no step of this key."""

    code = "PKR322"

    def __init__(self, run_id: str, key: str, known: Iterable[str], *, what: str = "step"):
        super().__init__(f"run {run_id} has no {what} {key!r}", hint=nearest(key, known))


class AlreadyDecidedError(WorkflowError):
    """An approval was answered before, or has expired; the first answer stands."""

    code = "PKR323"
    remedy = "the history of the run says who decided what, and when"


class ApproverError(WorkflowError):
    """Whoever answers an approval is not among those who may."""

    code = "PKR324"
    remedy = "have somebody answer who may"


class DepthLimitError(WorkflowError):
    """Runs start one another as children without end."""

    code = "PKR325"
    remedy = "start a detached run instead, or loop inside one workflow"


class FanOutError(WorkflowError):
    """What a step should be taken for each of is no list, or has too many items."""

    code = "PKR326"
    remedy = "give a list of at most 10,000 items, or map over pages of it"


class CompensationError(WorkflowError):
    """A step that undoes another one has failed; the others were undone all the same."""

    code = "PKR327"

    def __init__(self, steps: Iterable[str]):
        self.steps = tuple(steps)
        names = ", ".join(repr(step) for step in self.steps)
        super().__init__(
            f"could not undo: {names}",
            hint="the run's history has their errors; of one that is not there, the log",
        )


class HistoryFormatError(WorkflowError):
    """What should be an exported run is none."""

    code = "PKR328"
    remedy = "give what `pikku runs export` or `Run.export` made, unchanged"

    def __init__(self, place: str, problem: str):
        self.place = place
        super().__init__(
            f"no exported run: {place}: {problem}" if place else f"no exported run: {problem}"
        )


class ReplayDivergedError(WorkflowError):
    """Today's code does not take the way that a recorded run took."""

    code = "PKR329"
    remedy = 'guard the edit with ctx.workflow.patched("…"), or let the old runs end first'

    def __init__(self, run_id: str, workflow: str, difference: str):
        self.difference = difference
        super().__init__(f"run {run_id} of {workflow!r} does not replay: {difference}")


def _in_units(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{size} bytes"


# --- queues and sessions --------------------------------------------------------


class QueueError(PikkuError):
    """Something about jobs and the sessions that hold them."""

    code = "PKR400"


class LeaseLostError(QueueError):
    """This process was silent for longer than its lease; others own its runs now."""

    code = "PKR401"
    remedy = "look for what stopped the process or its event loop; nothing recorded is lost"


class JobFailedError(QueueError):
    """A job failed for good; raised by `result()`. It is a dead letter of its queue now."""

    code = "PKR402"

    def __init__(self, job_id: str, queue: str, error: ErrorInfo):
        self.job_id = job_id
        self.queue = queue
        self.error = error
        super().__init__(
            f"job {job_id} failed: {error.type}: {error.message}",
            hint=error.hint or f"pikku queue retry {queue} {job_id}",
        )

    def caused_by(self, kind: type[BaseException], /) -> bool:
        """Whether the error that ended the job was a *kind* (subclasses count)."""
        return self.error.is_a(kind)


class JobCancelledError(QueueError):
    """A job was cancelled; raised by `result()`."""

    code = "PKR403"

    def __init__(self, job_id: str, queue: str, reason: str):
        self.job_id = job_id
        self.queue = queue
        self.reason = reason
        super().__init__(f"job {job_id} was cancelled: {reason}", hint="")


class JobNotFoundError(QueueError):
    """No job has this id in this store, or no longer."""

    code = "PKR404"
    remedy = "a job is gone once it has completed, unless it was added with keep_result=True"

    def __init__(self, job_id: str, *, store: str):
        self.job_id = job_id
        super().__init__(f"no job {job_id!r} in {store}")


class JobStateError(QueueError):
    """A job is in a state in which this cannot be done to it."""

    code = "PKR405"


# --- calls of functions -----------------------------------------------------------


class CallError(PikkuError):
    """A call of a function is refused."""

    code = "PKR600"


class RpcDepthError(CallError):
    """Functions call one another without end."""

    code = "PKR601"
    remedy = "look for the function that calls itself, or start a workflow instead"

    def __init__(self, chain: tuple[str, ...]):
        self.chain = chain
        shown = chain if len(chain) <= 9 else (*chain[:4], "…", *chain[-4:])
        super().__init__(f"{len(chain) - 1} calls inside one another: {' → '.join(shown)}")


class PermissionDeniedError(CallError):
    """Whoever calls may not. Permissions and the `authorize` hook may raise it, too."""

    code = "PKR602"


class UnauthorizedError(CallError):
    """Nobody knows who asks. Raise it in the `authorize` hook, or return None there."""

    code = "PKR603"


# --- stores ---------------------------------------------------------------------


class StoreError(PikkuError):
    """The store refused or failed; the driver's error is the `__cause__`."""

    code = "PKR500"


class StoreUnavailableError(StoreError):
    """The store cannot be reached, or it is busy for too long."""

    code = "PKR501"


class SchemaVersionError(StoreError):
    """The store was written by a newer pikku."""

    code = "PKR502"
    remedy = "upgrade pikku here, or use another store"


class StoreReadOnlyError(StoreError):
    """The store cannot be written to."""

    code = "PKR503"
    remedy = "check the permissions of the file and of its folder"


class StoreFullError(StoreError):
    """The store's disk is full; the transition was rolled back and nothing recorded is lost."""

    code = "PKR504"
    remedy = "free space; waiting runs go on by themselves"


class StoreUnsafeError(StoreError):
    """The server may forget what it was told, and the store URL asks for strictness."""

    code = "PKR507"
    remedy = "set maxmemory-policy noeviction and appendonly yes, or leave strict=1 out"


class TransactionError(StoreError):
    """A run cannot be started in this transaction."""

    code = "PKR509"
    remedy = (
        "use a store in PostgreSQL, and a connection of psycopg or asyncpg to its database with a"
        " transaction open"
    )


class CorruptStoreError(StoreError):
    """The store's file is not a database of pikku's, or it is damaged."""

    code = "PKR505"
    remedy = "restore it from a backup, or point the store's URL elsewhere"


class CorruptStateError(StoreError):
    """One run's records cannot be read."""

    code = "PKR506"
    remedy = "the run is kept for inspection: `pikku runs show`"


class SealError(CorruptStateError):
    """The app's `payload_codec` cannot seal a value, or cannot open a stored one."""

    code = "PKR508"
    remedy = (
        "give the services the payload_codec, and the key, that sealed it; "
        "then `pikku runs resume` the run"
    )


class InternalError(PikkuError):
    """A bug in pikku."""

    code = "PKR900"
    remedy = "this is a bug in pikku: please report it with the message and the traceback"


# --- raised by authors, on purpose -------------------------------------------------


class TerminalError(Exception):
    """Raise it in a step to fail at once: no further attempt, whatever `retries` says."""

    def __init__(self, message: str, *, code: str | None = None):
        self.code = code
        super().__init__(message)


class RetryError(Exception):
    """Raise it in a step to fail this attempt and choose when the next one starts.

    *after* replaces the `retry_delay` of this one wait; the number of attempts stays as declared.
    """

    def __init__(self, message: str = "try again", *, after: timedelta):
        self.after = after
        super().__init__(message)


class PublicError(Exception):
    """Raise it, or a class derived from it, to have its class's name and its message shown to
    whoever calls the function over HTTP; of other errors they learn nothing."""


class Discarded(BaseException):
    """Thrown only into code that still runs while a parked function is thrown away."""
