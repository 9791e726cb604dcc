"""Deterministic replay of one function: recorded outcomes in, asked-for steps out.

Pure: it awaits no store, reads no clock, and runs no step. Outcomes are handed to the function one
at a time in the order of their delivery numbers, the next only when none of its tasks can move.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from pikku._codec import digest
from pikku._error_info import ErrorInfo
from pikku._ids import check_step_name, step_key
from pikku._loop import RunLoop
from pikku._records import (
    ENDED_STEP,
    StepKindName,
    StepRecord,
)
from pikku.errors import (
    Discarded,
    PikkuError,
    StepFailedError,
    StepNameError,
    WorkflowBodyError,
)

# Whoever cancels such a step's future has given it up, and nothing of it goes on.
_GIVEN_UP_WHEN_CANCELLED = frozenset({"sleep", "signal", "approval", "child"})


class Decoder(Protocol):
    """What turns recorded JSON text into the value that a function is handed."""

    def decode(self, text: str, where: str) -> Any: ...


class Ask(NamedTuple):
    """One step that the function asked for.

    `plan` is what executes it, known to the engine; `codec` turns the recorded JSON text into the
    value that the function is handed. `after` counts the outcomes that it had been given before.
    """

    key: str
    name: str
    position: int
    kind: StepKindName
    target: str
    digest: str
    input: str | None
    plan: Any
    codec: Decoder | None
    future: asyncio.Future[Any]
    record: StepRecord | None
    after: int = 0


class Outcome(NamedTuple):
    """How a step ended, for the function: a value (already decoded), JSON text, or an error."""

    key: str
    failed: bool
    text: str | None
    value: Any
    error: ErrorInfo | None
    attempt: int


NOT_DECODED: Any = object()


def _checked_patch(patch_id: str) -> str:
    try:
        return check_step_name(patch_id)
    except StepNameError:
        raise StepNameError(
            f"patched({patch_id!r:.60}): the id of a patch is a text of at most 500 characters",
            hint='say what the edit does: patched("inspect before restocking")',
        ) from None


class Divergence(NamedTuple):
    """Where today's code and the recorded history part ways."""

    step: str
    recorded: str
    found: str
    source: str

    def message(self) -> str:
        return (
            f"at step {self.step!r} the history says {self.recorded}, and the code {self.found}"
            + (f" ({self.source})" if self.source else "")
        )


class Replay:
    """A workflow function under the control of its history.

    Args:
        run_id: the run's id; the order in sets of tasks depends on it, and on nothing else.
        history: the recorded steps.
        delivered_before: how many outcomes are recorded: up to there the function only repeats.
    """

    def __init__(self, run_id: str, history: Sequence[StepRecord], delivered_before: int) -> None:
        self.loop = RunLoop(run_id)
        self.delivered = 0
        self.recorded_deliveries = delivered_before
        self.divergence: Divergence | None = None
        self.cancel_asked: str | None = None
        self.failure: PikkuError | None = None
        self.stopped = False
        self.main: asyncio.Task[Any] | None = None
        self._recorded = {step.key: step for step in history}
        self._order = {
            step.delivery: step
            for step in history
            if step.delivery is not None and step.status in ENDED_STEP
        }
        self._asked: dict[str, Ask] = {}
        # Whether jobs or children are under way, as far as the history says.
        self.left_open = any(
            (step.queue is not None or step.kind == "child") and step.status not in ENDED_STEP
            for step in history
        )
        self._unasked = sum(step.kind not in ("on_error", "patch") for step in history)
        self._patches: dict[str, bool] = {}
        self.new_asks: list[Ask] = []
        # Key, position and how many outcomes had been delivered.
        self.new_patches: list[tuple[str, int, int]] = []
        self.given_up: list[Ask] = []
        self._reached: dict[str, int] = {}
        self._discarded = False
        self._refusals = 0

    @property
    def replaying(self) -> bool:
        """Whether the function still repeats what is recorded."""
        return self.delivered < self.recorded_deliveries

    # --- the function's side --------------------------------------------------------------------

    def ask(
        self,
        kind: StepKindName,
        name: str,
        target: str,
        plan: Any,
        codec: Decoder | None = None,
        input: str | None = None,
    ) -> asyncio.Future[Any]:
        """A future for the outcome of the next step in the function's order.

        Raises:
            StepNameError: for a name that names nothing.
            WorkflowBodyError: if called from outside the workflow's own tasks.
        """
        if self._discarded or asyncio._get_running_loop() is not self.loop.for_asyncio:
            self._refuse_strangers()
        reached = self._reached
        ordinal = reached.get(name, -1) + 1 if type(name) is str else 0
        if ordinal == 0:
            name = check_step_name(name)
        key = step_key(name, ordinal) if ordinal else name
        while key in self._asked:
            ordinal += 1
            key = step_key(name, ordinal)
        reached[name] = ordinal
        fingerprint = digest(input) if ordinal and input is not None else ""
        record = self._recorded.get(key) if self._recorded else None
        future = self.loop.create_future()
        ask = Ask(
            key,
            name,
            len(self._asked),
            kind,
            target,
            fingerprint,
            input,
            plan,
            codec,
            future,
            record,
            self.delivered,
        )
        self._asked[key] = ask
        if kind in _GIVEN_UP_WHEN_CANCELLED:
            future.add_done_callback(functools.partial(self._given_up, ask))
        if record is None:
            self.new_asks.append(ask)
            return future
        self._unasked -= 1
        if (
            record.kind != kind
            or record.target != target
            or (record.digest != fingerprint and record.input is not None)
        ):
            self._diverge(ask, record)
        elif record.delivery is None:
            self.new_asks.append(ask)
        return future

    def fail(self, error: PikkuError) -> asyncio.Future[Any]:
        """Stop the function from outside: what it asks for cannot be had. Never resolves."""
        self._refuse_strangers()
        self.stop(error)
        return self.loop.create_future()

    def ask_cancel(self, reason: str) -> asyncio.Future[Any]:
        """A future that nothing but the cancellation ends."""
        self._refuse_strangers()
        if self.cancel_asked is None:
            self.cancel_asked = reason
        return self.loop.create_future()

    def patched(self, patch_id: str) -> bool:
        """Whether the run goes the new way at a guarded edit: recorded the first time, and no for
        what had passed the place before the edit came."""
        self._refuse_strangers()
        key = f"patched({_checked_patch(patch_id)})"
        answer = self._patches.get(key)
        if answer is None:
            answer = key in self._recorded
            if not answer and not self.replaying and not self._unasked:
                answer = True
                self.new_patches.append((key, len(self._asked), self.delivered))
            self._patches[key] = answer
        return answer

    def _given_up(self, ask: Ask, future: asyncio.Future[Any]) -> None:
        if future.cancelled() and not self._discarded:
            self.given_up.append(ask)

    def _refuse_strangers(self) -> None:
        if self._discarded:
            self._refusals += 1
            if self._refusals < 1000:
                raise Discarded
        if asyncio._get_running_loop() is not self.loop.for_asyncio:
            raise WorkflowBodyError(
                "ctx.workflow was used outside its workflow's body",
                hint="a step's body and other threads have no steps of their own",
            )

    # --- the engine's side ----------------------------------------------------------------------

    def start(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Call the function and let it run to its first waits."""
        self.main = self.loop.create_task(function(), name="workflow")
        self.run()

    def run(self) -> None:
        """Let every task that can move do so."""
        try:
            self.loop.run_until_idle()
        except WorkflowBodyError as error:
            self.stop(error)

    def take_asks(self) -> list[Ask]:
        """What the function asked for since the last time and has no delivered outcome yet."""
        new, self.new_asks = self.new_asks, []
        return new

    @property
    def last_ask(self) -> Ask | None:
        """What the function has asked for last."""
        return next(reversed(self._asked.values()), None)

    @property
    def asks_under_way(self) -> list[Ask]:
        """What the function has asked for and nobody has answered or given up."""
        return [ask for ask in self._asked.values() if not ask.future.done()]

    def recorded(self, key: str) -> StepRecord | None:
        """The record of the step with this *key*, as it was when the replay began."""
        return self._recorded.get(key)

    def stop(self, error: PikkuError) -> None:
        """Nothing of the function runs any more, because of *error*."""
        self.stopped = True
        if self.failure is None:
            self.failure = error
        self.loop.halt()

    def name_of(self, key: str) -> str:
        """The name under which the step with this *key* was asked for."""
        ask = self._asked.get(key)
        return ask.name if ask is not None else key

    def deliver(self, outcome: Outcome) -> None:
        """Hand the function its next outcome and let it run.

        An outcome of a step that was never asked for is a divergence.
        """
        ask = self._asked.get(outcome.key)
        if ask is None:
            record = self._recorded.get(outcome.key)
            what = _described(record.kind, record.target) if record else "a step"
            self.diverge(Divergence(outcome.key, what, self._instead(), self._where_it_stands()))
            return
        self.delivered += 1
        future = ask.future
        if not future.done():
            if outcome.failed:
                error = outcome.error or ErrorInfo("Exception", "")
                future.set_exception(StepFailedError(error, ask.name, outcome.attempt))
            elif outcome.value is not NOT_DECODED:
                future.set_result(outcome.value)
            elif outcome.text is None or ask.codec is None:
                future.set_result(None)
            else:
                try:
                    where = f"step {ask.name!r}"
                    if ask.kind == "child":
                        where += f", as the result of workflow {ask.target!r} is declared here"
                    future.set_result(ask.codec.decode(outcome.text, where))
                except PikkuError as error:
                    self.stop(error)
                    return
            try:
                self.loop.run_until_idle()
            except WorkflowBodyError as error:
                self.stop(error)

    def deliver_value(self, ask: Ask, value: Any) -> None:
        """`deliver`, for the value of a step that has just ended in this process."""
        self.delivered += 1
        if not ask.future.done():
            ask.future.set_result(value)
            try:
                self.loop.run_until_idle()
            except WorkflowBodyError as error:
                self.stop(error)

    def deliver_cancel(self) -> None:
        """Cancel the function: its pending awaits raise `asyncio.CancelledError`."""
        self.delivered += 1
        assert self.main is not None
        self.main.cancel()
        self.run()

    def refuse(self, ask: Ask, error: ErrorInfo) -> None:
        """Tell whoever still waits for a step of a cancelled function that it is not granted."""
        if not ask.future.done():
            attempt = ask.record.attempt if ask.record is not None else 1
            ask.future.set_exception(StepFailedError(error, ask.name, attempt))
            self.run()

    def recorded_outcome(self, number: int) -> Outcome | None:
        """The outcome recorded under a delivery *number*, or None."""
        step = self._order.get(number)
        if step is None:
            return None
        failed = step.status == "failed"
        error = ErrorInfo.from_json(step.error) if failed and step.error else None
        return Outcome(step.key, failed, step.result, NOT_DECODED, error, step.attempt)

    def never_asked(self, *, before: int | None = None) -> Divergence | None:
        """A recorded step that the function has not asked for: of those that were asked for with
        less than *before* outcomes; without that, it has returned, and of all."""
        for key, step in self._recorded.items():
            if (
                key not in self._asked
                and step.kind not in ("on_error", "patch")
                and (before is None or step.after < before)
            ):
                recorded = _described(step.kind, step.target)
                if before is None:
                    return Divergence(key, recorded, "has returned without it", "")
                return Divergence(key, recorded, self._instead(), self._where_it_stands())
        return None

    def discard(self) -> None:
        """Throw the function away. Its `finally` blocks may run; no step of theirs is asked for."""
        self._discarded = True
        self.loop.discard()

    def _diverge(self, ask: Ask, record: StepRecord) -> None:
        found = f"asks for {_described(ask.kind, ask.target)}"
        recorded = _described(record.kind, record.target)
        if recorded == _described(ask.kind, ask.target):
            recorded += " with another input"
        self.diverge(Divergence(ask.key, recorded, found, _calling_line()))

    def diverge(self, divergence: Divergence) -> None:
        """Nothing of the function runs any more: it is not what the history is of."""
        self.stopped = True
        if self.divergence is None:
            self.divergence = divergence
        self.loop.halt()

    def _instead(self) -> str:
        """What the function asks for, and the history does not know."""
        new = [repr(ask.key) for ask in self.asks_under_way if ask.record is None]
        return "does not ask for it" + (f", but for {', '.join(new[:3])}" if new else "")

    def _where_it_stands(self) -> str:
        if self.main is None:
            return ""
        if self.main.done():
            return "it has returned"
        coro: Any = self.main.get_coro()
        line = ""
        while coro is not None:
            frame = getattr(coro, "cr_frame", None)
            if frame is None or _is_ours(frame.f_globals.get("__name__", "")):
                break
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            coro = getattr(coro, "cr_await", None)
        return f"it waits at {line}" if line else ""


_KINDS: dict[str, str] = {
    "rpc": "an RPC step",
    "inline": "an inline step",
    "sleep": "a sleep",
    "signal": "a wait for a signal",
    "approval": "an approval",
    "suspend": "a suspension",
    "child": "a child",
    "side_effect": "a drawn value",
}


def _described(kind: str, target: str) -> str:
    what = _KINDS.get(kind, f"a step of kind {kind}")
    return f"{what} of {target!r}" if target else what


def _is_ours(module: str) -> bool:
    return module == "pikku" or module.startswith(("pikku.", "asyncio"))


def _calling_line() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
