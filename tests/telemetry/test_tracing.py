"""Spans: what there is of a run, under what, and that there is nothing on replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.http import kit as http_kit
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import RpcRef, WorkflowRef
from pikku._telemetry import NOBODY, Several, observer_of
from pikku._tracing import Tracing, tracing_here
from pikku.testing import WorkflowLab

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def clear(self) -> None:
        self._exporter.clear()


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert parent.context is not None
    assert span.context is not None
    return (
        span.parent is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def toy(spans: Spans) -> Toy:
    toy = Toy()
    toy.app._observers.append(Tracing(spans.tracer))
    return toy


@pytest.fixture
async def lab(toy: Toy, request: pytest.FixtureRequest) -> AsyncGenerator[WorkflowLab[Any], None]:
    lab: WorkflowLab[Any] = WorkflowLab(toy.app, queue_service=request.param)
    async with lab:
        yield lab


here = pytest.mark.parametrize("lab", ["none"], indirect=True)
everywhere = pytest.mark.parametrize("lab", ["none", "store"], indirect=True)


@everywhere
async def test_a_start_a_run_and_its_steps_are_one_trace(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.func
    async def double(ctx: Ctx, number: int) -> int:
        return 2 * number

    @toy.workflow(name="twice")
    async def twice(ctx: Wf, number: int) -> int:
        number = await ctx.workflow.do("First", double, number)
        return await ctx.workflow.do("Second", lambda: number)

    with spans.tracer.start_as_current_span("caller"):
        run = await toy.start("twice", 1)
    assert await run.result() == 2

    caller, start, moved = (
        spans.one("caller"),
        spans.one("pikku.start twice"),
        spans.one("pikku.run twice"),
    )
    first, second = spans.one("pikku.step First"), spans.one("pikku.step Second")
    assert is_below(start, caller)
    assert is_below(moved, start)
    assert is_below(first, moved)
    assert is_below(second, moved)
    assert (start.kind, moved.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert said(moved)["pikku.outcome"] == "completed"
    assert said(first) == {
        "pikku.run_id": run.run_id,
        "pikku.workflow": "twice",
        "pikku.step": "First",
        "pikku.attempt": 1,
        "pikku.kind": "rpc",
        "pikku.function": "double",
    }


async def test_a_step_that_crosses_a_queue_is_in_the_trace_of_its_run(
    toy: Toy, spans: Spans
) -> None:
    @toy.func(queue="slow")
    async def far(ctx: Ctx) -> int:
        return 1

    @toy.workflow(name="crossing")
    async def crossing(ctx: Wf) -> int:
        return await ctx.workflow.do("Far", far)

    async with WorkflowLab[Any](toy.app, queue_service="store"):
        run = await toy.start("crossing")
        assert await run.result() == 1

    step = spans.one("pikku.step Far")
    assert is_below(step, spans.named("pikku.run crossing")[0])
    assert (said(step)["pikku.queue"], step.kind) == ("slow", SpanKind.CONSUMER)


@here
async def test_a_failed_attempt_has_its_error_and_each_attempt_a_span(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="failing")
    async def failing(ctx: Wf) -> None:
        def fail() -> None:
            raise ValueError("redis://me:hunter2@host is gone")

        await ctx.workflow.do("Fail", fail, retries=1, retry_delay="1s")

    run = await toy.start("failing")
    await lab.settle()

    assert await run.status() == "failed"
    attempts = spans.named("pikku.step Fail")
    assert [said(each)["pikku.attempt"] for each in attempts] == [1, 2]
    for each in attempts:
        assert each.status.status_code is StatusCode.ERROR
        assert each.status.description == "ValueError: redis://me:***@host is gone"
        [event] = each.events
        assert event.name == "exception"
        kept = dict(event.attributes or {})
        assert kept["exception.type"] == "ValueError"
        assert "hunter2" not in str(kept)
    last = spans.named("pikku.run failing")[-1]
    assert last.status.status_code is StatusCode.ERROR


@here
async def test_a_run_that_waits_holds_no_span_open(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="napping")
    async def napping(ctx: Wf) -> None:
        await ctx.workflow.do("Before", lambda: 1)
        await ctx.workflow.sleep("Nap", "3d")
        await ctx.workflow.do("After", lambda: 2)

    lab._auto = False
    await toy.start("napping")
    resting = [span.name for span in spans.all]
    await lab.advance("3d")

    assert resting == ["pikku.start napping", "pikku.step Before", "pikku.run napping"]
    first, second = spans.named("pikku.run napping")
    assert is_below(spans.one("pikku.step Before"), first)
    assert is_below(spans.one("pikku.step After"), second)
    start = spans.one("pikku.start napping")
    assert is_below(first, start)
    assert is_below(second, start)


@here
async def test_a_replay_makes_no_span_of_what_is_recorded(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="two")
    async def two(ctx: Wf) -> None:
        await ctx.workflow.do("One", lambda: 1)
        await ctx.workflow.do("Two", lambda: 2)

    lab.crash_after("One")
    await toy.start("two", wait=False)
    await lab.recover()

    assert len(spans.named("pikku.step One")) == 1
    assert len(spans.named("pikku.step Two")) == 1
    # The process that died has said nothing of its stretch; the next one has a span of its own.
    moved = spans.one("pikku.run two")
    assert said(moved)["pikku.replayed"] is True
    assert is_below(moved, spans.one("pikku.start two"))
    assert is_below(spans.one("pikku.step Two"), moved)


@everywhere
async def test_a_child_belongs_to_the_trace_of_the_run_that_starts_it(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="child")
    async def child(ctx: Wf) -> int:
        return await ctx.workflow.do("In child", lambda: 1)

    @toy.workflow(name="parent")
    async def parent(ctx: Wf) -> int:
        return await ctx.workflow.do("Have it done", WorkflowRef[None, int]("child"))

    run = await toy.start("parent")
    assert await run.result() == 1

    start = spans.one("pikku.start child")
    assert is_below(start, spans.named("pikku.run parent")[0])
    assert said(start)["pikku.step"] == "Have it done"
    assert is_below(spans.named("pikku.run child")[0], start)


@here
async def test_a_run_that_a_step_starts_is_under_the_step(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="other")
    async def other(ctx: Wf) -> None:
        pass

    @toy.func
    async def start_it(ctx: Ctx) -> None:
        await ctx.rpc.start_workflow("other", wait=False)

    @toy.func
    def start_it_from_a_thread(ctx: Ctx) -> None:
        ctx.run_async(ctx.rpc.start_workflow("other", wait=False))

    @toy.workflow(name="starting")
    async def starting(ctx: Wf) -> None:
        await ctx.workflow.do("Loop", start_it)
        await ctx.workflow.do("Thread", start_it_from_a_thread)

    await toy.start("starting")
    await lab.settle()

    one, two = spans.named("pikku.start other")
    assert is_below(one, spans.one("pikku.step Loop"))
    assert is_below(two, spans.one("pikku.step Thread"))


@here
async def test_a_spans_of_the_functions_own_is_under_its_step(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.func
    async def inside(ctx: Ctx) -> None:
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("own"):
            pass

    @toy.func
    def in_a_thread(ctx: Ctx) -> None:
        with spans.tracer.start_as_current_span("own in thread"):
            pass

    async def inline() -> None:
        with spans.tracer.start_as_current_span("own inline"):
            await asyncio.sleep(0)

    @toy.workflow(name="w")
    async def w(ctx: Wf) -> None:
        await ctx.workflow.do("Inside", inside)
        await ctx.workflow.do("Thread", in_a_thread)
        await ctx.workflow.do("Inline", inline)

    await toy.start("w")

    assert is_below(spans.one("own"), spans.one("pikku.step Inside"))
    assert is_below(spans.one("own in thread"), spans.one("pikku.step Thread"))
    assert is_below(spans.one("own inline"), spans.one("pikku.step Inline"))


@here
async def test_a_cancel_is_a_span_of_whoever_asks_and_an_event_of_the_run(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="waiting")
    async def waiting(ctx: Wf) -> None:
        await ctx.workflow.sleep("Long", "30d")

    lab._auto = False
    run = await toy.start("waiting")
    await run.cancel("no need")
    await lab.settle()

    assert said(spans.one("pikku.cancel"))["pikku.run_id"] == run.run_id
    last = spans.named("pikku.run waiting")[-1]
    assert [event.name for event in last.events] == ["pikku.cancel"]
    assert said(last)["pikku.outcome"] == "cancelled"
    assert last.status.status_code is StatusCode.UNSET


async def test_a_request_over_http_goes_on_with_the_callers_trace() -> None:
    spans, desk = Spans(), http_kit.Desk()
    desk.app._observers.append(Tracing(spans.tracer))
    async with desk.open() as client:
        await client.post(
            "/workflows/greet/runs", json={"input": "ann"}, headers={"traceparent": PARENT}
        )
        await client.post("/rpc/fail", json="now")
        await client.post("/rpc/unheard-of", json="now")

    request = spans.one("POST /workflows/{name}/runs")
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert is_below(spans.one("pikku.start greet"), request)
    failed, unknown = spans.named("POST /rpc/{name}")
    assert failed.status.status_code is StatusCode.ERROR
    assert unknown.status.status_code is StatusCode.UNSET


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Generator[TracerProvider, None, None]:
    made = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", made)
    yield made


def test_nobody_listens_without_a_tracer_provider() -> None:
    assert tracing_here() is None
    assert observer_of([]) is NOBODY


def test_a_tracer_provider_is_found(provider: TracerProvider) -> None:
    assert isinstance(observer_of([]), Tracing)


@here
async def test_several_observers_are_each_told_of_everything(
    lab: WorkflowLab[Any], toy: Toy, spans: Spans
) -> None:
    @toy.workflow(name="w")
    async def w(ctx: Wf) -> None:
        await ctx.workflow.do("Step", RpcRef[None, None]("f"))

    @toy.func
    async def f(ctx: Ctx) -> None:
        with spans.tracer.start_as_current_span("own"):
            pass

    other = Spans()
    lab._opened.engine.observer = Several([Tracing(other.tracer), Tracing(spans.tracer)])
    await toy.start("w")

    for each in (other, spans):
        step = each.one("pikku.step Step")
        assert is_below(step, each.one("pikku.run w"))
    assert is_below(spans.one("own"), spans.one("pikku.step Step"))
