"""From the author's calls on `ctx.workflow` to the steps that a replay asks for."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from pikku._answers import AnswerTerms, DecisionCodec, ReceivedCodec, type_place
from pikku._bodies import ChildPlan, End, Plan
from pikku._clock import Clock, as_datetime
from pikku._codec import PLAIN, Codec, codec_for
from pikku._durations import Duration
from pikku._functions import (
    NO_INPUT,
    Dispatch,
    ExternalWorkflow,
    Registry,
    WorkflowRef,
    check_route,
    resolve_annotations,
    step_policy,
)
from pikku._payloads import MAX_PAYLOAD_BYTES, check_size
from pikku._replay import Replay
from pikku._retry import DEFAULT_POLICY, Backoff
from pikku.errors import (
    ApproverError,
    DeclarationError,
    DepthLimitError,
    InvalidInputError,
    UnknownFunctionError,
    UnknownWorkflowError,
    nearest,
)
from pikku.stores.base import DEFAULT_QUEUE

# How many runs may start one another in a row: far above any design, far below any harm.
MAX_DEPTH = 32

_RESULT_TYPES: dict[str, Any] = {"now()": datetime, "uuid4()": UUID, "random()": float}


class _Given:
    """Implements `pikku._workflow.Given` for the step that was asked for last."""

    def __init__(self, replay: Replay, given: Codec | None, made: Codec) -> None:
        self._ask = replay.last_ask
        self._input = given
        self._output = made

    def input(self) -> Any:
        """What the step was given."""
        ask = self._ask
        if ask is None or self._input is None:
            return None
        record = ask.record
        text = ask.input if record is None or record.input is None else record.input
        return None if text is None else self._input.decode(text, f"the input of {ask.key!r}")

    def copy(self, output: Any) -> Any:
        """What the step has made, as an object of its own."""
        return self._output.encode(output, "what a step has made")[1]


class RunRecorder:
    """Implements `pikku._workflow.Recorder` for one replay."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        replay: Replay,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        depth: int = 0,
        started_by: str | None = None,
    ) -> None:
        self._depth = depth
        self._started_by = started_by
        self._given: tuple[Codec | None, Codec] = (None, PLAIN)
        self._registry = registry
        self._clock = clock
        self._replay = replay
        self._max_payload_bytes = max_payload_bytes

    def rpc(
        self,
        step: str,
        target: str,
        data: Any,
        retries: int | None,
        retry_delay: Duration | Backoff | None,
        timeout: Duration | None,
        on_error: str | None,
        queue: str | None,
        dispatch: Dispatch | None,
        *,
        limited: bool = True,
    ) -> asyncio.Future[Any]:
        func = self._registry.functions.get(target)
        if func is None or (on_error is not None and on_error not in self._registry.functions):
            missing = target if func is None else on_error
            return self._replay.fail(UnknownFunctionError(str(missing), self._registry.functions))
        where = f"step {step!r}"
        declaration = func.declaration
        if data is NO_INPUT:
            if declaration.takes_input:
                raise InvalidInputError(where, [("input", f"{target!r} needs an input")])
            data = None
        codec = declaration.output
        self._given = (declaration.input if declaration.takes_input else None, codec)
        text = declaration.input.admit(data, where)
        if limited:
            check_size(text, self._max_payload_bytes, f"the input of {where}")
        policy = func.policy
        if retries is not None or retry_delay is not None or timeout is not None:
            policy = step_policy(where, policy, retries, retry_delay, timeout)
        if queue is None and dispatch is None:
            queue, crosses = func.queue, func.crosses
        else:
            check_route(where, queue, dispatch)
            if queue is not None and queue not in self._registry.queues and queue != DEFAULT_QUEUE:
                raise DeclarationError(
                    f"{where}: no function has the queue {queue!r}, so no worker listens to it",
                    hint=nearest(queue, self._registry.queues)
                    or "name a queue that a function declares: @pikku_func(queue=…)",
                )
            queue = queue or func.queue
            crosses = queue is not None or (dispatch or func.dispatch) == "queue"
        return self._replay.ask(
            "rpc",
            step,
            target,
            Plan(func, None, text, codec, policy, on_error, where, queue, crosses),
            codec,
            text,
        )

    def inline(
        self,
        step: str,
        target: Callable[[], Any],
        retries: int | None,
        retry_delay: Duration | Backoff | None,
        timeout: Duration | None,
        on_error: str | None,
        queue: str | None,
        dispatch: Dispatch | None,
        returns: Any,
    ) -> asyncio.Future[Any]:
        if not callable(target):
            raise DeclarationError(
                f"step {step!r}: {target!r} can be neither called nor found by name",
                hint="give a function of the app, its name, or a callable without arguments",
            )
        if queue is not None or dispatch is not None:
            raise DeclarationError(
                f"step {step!r}: an inline step runs where its workflow does",
                hint="leave out queue and dispatch, or make it a function of the app",
            )
        if on_error is not None and on_error not in self._registry.functions:
            return self._replay.fail(UnknownFunctionError(on_error, self._registry.functions))
        where = f"step {step!r}"
        codec = _codec_of(target, returns, where)
        policy = DEFAULT_POLICY
        if retries is not None or retry_delay is not None or timeout is not None:
            policy = step_policy(where, policy, retries, retry_delay, timeout)
        return self._replay.ask(
            "inline", step, "", Plan(None, target, None, codec, policy, on_error, where), codec
        )

    def sleep(
        self, step: str, *, wait_us: int | None = None, until_us: int | None = None
    ) -> asyncio.Future[Any]:
        return self._replay.ask("sleep", step, "", (wait_us, until_us, None))

    def signal(self, step: str, name: str, *, timeout_us: int | None) -> asyncio.Future[Any]:
        payload = self._registry.signal(name).payload
        return self._replay.ask(
            "signal", step, name, (timeout_us, None, None), ReceivedCodec(payload)
        )

    def approval(
        self,
        step: str,
        *,
        schema: type[Any] | None,
        reason: str,
        expires_us: int | None,
        approvers: str,
        scope: str,
    ) -> asyncio.Future[Any]:
        if approvers != "any" and self._started_by is None:
            raise ApproverError(
                f"approval {step!r} is for {approvers!r}, and the run does not say who started it: "
                "nobody could answer",
                hint="start the run with started_by=",
            )
        job = AnswerTerms(type_place(schema, step), reason, approvers, scope).to_json()
        return self._replay.ask(
            "approval",
            step,
            "",
            (expires_us, None, job),
            DecisionCodec(codec_for(schema, f"the data of approval {step!r}")),
        )

    def suspend(self, reason: str) -> asyncio.Future[Any]:
        return self._replay.ask("suspend", reason, "", None)

    def patched(self, patch_id: str) -> bool:
        return self._replay.patched(patch_id)

    def is_workflow(self, name: str) -> bool:
        return name in self._registry.workflows and name not in self._registry.functions

    def given(self) -> _Given:
        return _Given(self._replay, *self._given)

    def child(
        self,
        step: str,
        target: WorkflowRef[Any, Any] | str,
        data: Any,
        retries: int | None,
        retry_delay: Duration | Backoff | None,
        timeout: Duration | None,
        on_error: str | None,
        detached: bool,
    ) -> asyncio.Future[Any]:
        name = target if isinstance(target, str) else target.name
        where = f"step {step!r}"
        if self._depth >= MAX_DEPTH:
            raise DepthLimitError(
                f"{where}: its run is {MAX_DEPTH} children deep, and starts another of {name!r}"
            )
        if on_error is not None and on_error not in self._registry.functions:
            return self._replay.fail(UnknownFunctionError(on_error, self._registry.functions))
        if isinstance(target, ExternalWorkflow):
            given, made, takes_input = target.input, target.output, target.takes_input
            child = ChildPlan(name, "", (), None, detached)
        else:
            wired = self._registry.workflows.get(name)
            if wired is None:
                return self._replay.fail(UnknownWorkflowError(name, self._registry.workflows))
            declaration = wired.workflow.declaration
            given, made, takes_input = (
                declaration.input,
                declaration.output,
                declaration.takes_input,
            )
            version = self._registry.versions.get(name, "")
            child = ChildPlan(name, version, wired.tags, wired.workflow.timeout_us, detached)
        if data is NO_INPUT:
            if takes_input:
                raise InvalidInputError(where, [("input", f"{name!r} needs an input")])
            data = None
        self._given = (given if takes_input else None, made)
        text = given.admit(data, where)
        check_size(text, self._max_payload_bytes, f"the input of {where}")
        codec = codec_for(str, where) if detached else made
        policy = step_policy(where, DEFAULT_POLICY, retries, retry_delay, timeout)
        plan = Plan(None, None, text, codec, policy, on_error, where, child=child)
        return self._replay.ask("child", step, name, plan, codec, text)

    def side_effect(self, name: str) -> asyncio.Future[Any]:
        codec = codec_for(_RESULT_TYPES[name], name)
        return self._replay.ask(
            "side_effect", name, "", functools.partial(self._draw, name, codec), codec
        )

    def cancel(self, reason: str) -> asyncio.Future[Any]:
        return self._replay.ask_cancel(reason)

    def _draw(self, name: str, codec: Codec) -> End:
        value: object
        if name == "now()":
            value = as_datetime(self._clock.now_us())
        elif name == "uuid4()":
            value = uuid4()
        else:
            value = random.random()
        text, decoded = codec.encode(value, name)
        return End(False, text, decoded)


_BY_PLACE: dict[Any, Codec] = {}


def _codec_of(target: Callable[[], Any], returns: Any, where: str) -> Codec:
    """The codec of what an inline callable returns: as passed, as annotated, else plain."""
    if returns is not None:
        return codec_for(returns, where)
    func: Any = target
    while isinstance(func, functools.partial):
        func = func.func
    func = getattr(func, "__func__", func)
    annotations: dict[str, Any] | None = getattr(func, "__annotations__", None)
    if not annotations or "return" not in annotations:
        return PLAIN
    declared = annotations["return"]
    if not isinstance(declared, str):
        return codec_for(declared, where)
    place = (getattr(func, "__code__", func), declared)
    codec = _BY_PLACE.get(place)
    if codec is None:
        types = resolve_annotations({"return": declared}, func, where)
        codec = _BY_PLACE[place] = codec_for(types["return"], where)
    return codec
