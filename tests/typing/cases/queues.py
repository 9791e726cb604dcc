# ruff: noqa
"""What is added to a queue, and what is due by the clock, is typed; each misuse is an error."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import assert_type, reveal_type

from pikku import BoundQueue, Job, JobInfo, QueueConfig, RateLimit
from shop.functions import charge, send_email
from shop.types import Charge, Line
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    queues,
    rpc,
    wire_queue_worker,
    wire_scheduler,
    wire_workflow,
    workflows,
)
from shop_pikku.sync import open_app

LINES = [Line(sku="a", quantity=1)]
CHARGE = Charge("1", "card", Decimal(1))


# --- queues


async def added(ctx: Context) -> None:
    job = await queues.quotes.add(
        LINES,
        delay="5min",
        priority=5,
        retries=5,
        dedupe_id="order-1",
        group="customer-7",
        keep_result=True,
    )
    reveal_type(job)  # R: Job[Decimal]
    reveal_type(await job.result(timeout="1min"))  # R: Decimal
    reveal_type(await job.info())  # R: JobInfo | None
    reveal_type(await queues.add("quotes", LINES, delay=timedelta(seconds=1)))  # R: Job[Decimal]
    reveal_type(queues.quotes.get_job(job.job_id))  # R: Job[Decimal]
    reveal_type(queues.emails.get_job("1"))  # R: Job[None]
    await queues.emails.add({"to": "a", "message": "b"})
    await queues.add("emails", {"to": "a", "message": "b"}, group="a")
    many = await queues.quotes.add_many([LINES], priority=5, delay="1s", retries=1, group="a")
    assert_type(many, list[Job[Decimal]])
    await job.cancel("no longer wanted")


async def without_input(sweep: BoundQueue[None, int], info: JobInfo) -> None:
    reveal_type(await sweep.add(delay="1h"))  # R: Job[int]
    reveal_type(info.progress)  # R: float | None
    assert_type(info.error, str | None)
    await sweep.add(1)  # E: call-overload


async def wrongly_added(name: str, job: Job[Decimal], info: JobInfo) -> None:
    await queues.emials.add({"to": "a", "message": "b"})  # E: attr-defined
    await queues.add("emials", {"to": "a", "message": "b"})  # E: call-overload
    await queues.add(name, LINES)  # E: call-overload
    await queues.add("quotes", {"to": "a", "message": "b"})  # E: call-overload
    await queues.add("quotes")  # E: call-overload
    await queues.add("quotes", LINES, priority="high")  # E: call-overload
    await queues.emails.add({"to": "a"})  # E: typeddict-item
    await queues.emails.add({"to": "a", "message": "b", "copy": "c"})  # E: typeddict-unknown-key
    await queues.quotes.add(CHARGE)  # E: arg-type
    await queues.quotes.add()  # E: call-arg
    await queues.quotes.add(LINES, delay=5)  # E: arg-type
    await queues.quotes.add(LINES, dedupe=1)  # E: call-arg
    await queues.quotes.add_many(LINES)  # E: arg-type
    await queues.quotes.add_many([LINES], dedupe_id="1")  # E: call-arg
    queues.quotes.add(LINES)  # E: unused-coroutine
    queues.add("quotes", LINES)  # E: unused-coroutine
    job.cancel("Forgotten")  # E: unused-coroutine
    await job.cancel()  # E: call-arg
    text: str = await job.result()  # E: assignment
    await job.result(timeout=5)  # E: arg-type
    info.status = "failed"  # E: misc
    print(text, info.state)  # E: attr-defined


def from_a_script() -> None:
    with open_app() as shop:
        job = shop.queues.quotes.add(LINES, keep_result=True)
        reveal_type(job.result())  # R: Decimal
        reveal_type(shop.queues.add("quotes", LINES).job_id)  # R: str
        reveal_type(shop.queues.quotes.add_many([LINES]))  # R: list[SyncJob[Decimal]]
        shop.queues.emials  # E: attr-defined
        shop.queues.quotes.add(CHARGE)  # E: arg-type
        shop.queues.add("quotes", CHARGE)  # E: call-overload


wire_queue_worker(queue="charges", func=charge)
wire_queue_worker(
    queue="charges",
    func=charge,
    config=QueueConfig(
        concurrency=20, group_concurrency=1, rate_limit=RateLimit(100, timedelta(minutes=1))
    ),
)
wire_queue_worker(queue="charges", func=workflows.onboarding)  # E: arg-type
wire_queue_worker(queue="charges", func=rpc.charge)  # E: arg-type
wire_queue_worker(queue="charges")  # E: call-arg
wire_queue_worker(queue=1, func=charge)  # E: arg-type
wire_queue_worker(queue="charges", func=charge, config={"concurrency": 1})  # E: arg-type
wire_queue_worker(queue="charges", func=charge, config=QueueConfig(20))  # E: call-arg
QueueConfig(concurency=1)  # E: call-arg
QueueConfig(rate_limit=100)  # E: arg-type
RateLimit(100)  # E: call-arg
RateLimit(100, 60)  # E: arg-type


# --- schedules


@pikku_func
async def report(ctx: Context) -> int:
    return 1


@pikku_func
def report_of(ctx: Context, due: datetime) -> None: ...


@pikku_func
async def report_day(ctx: Context, day: date) -> None: ...


@pikku_func
async def report_text(ctx: Context, day: str) -> None: ...


@pikku_workflow_func
async def closing(ctx: WorkflowContext, due: datetime) -> str:
    return str(due)


@pikku_workflow_func
async def closing_line(ctx: WorkflowContext, line: Line) -> None: ...


wire_workflow(name="closing", func=closing)
wire_scheduler(
    name="nightly",
    schedule="0 3 * * *",
    timezone="Europe/Berlin",
    func=report,
    catch_up="all",
    description="What was sold",
)
wire_scheduler(name="hourly", schedule="@hourly", func=report_of)
wire_scheduler(name="closing", schedule="@monthly", func=closing, catch_up="skip")
wire_scheduler(name="nightly", schedule="@daily", func=report_text)  # E: arg-type
wire_scheduler(name="nightly", schedule="@daily", func=closing_line)  # E: arg-type
wire_scheduler(name="nightly", schedule="@daily", func=send_email)  # E: arg-type
wire_scheduler(name="nightly", schedule="@daily", func=lambda: None)  # E: arg-type
wire_scheduler(name="nightly", schedule="@daily", func=report, catch_up="twice")  # E: arg-type
wire_scheduler(name="nightly", schedule="@daily", func=report, cron="@daily")  # E: call-arg
wire_scheduler(name="nightly", schedule=timedelta(1), func=report)  # E: arg-type
wire_scheduler(name="nightly", schedule="@daily", func=report, timezone=None)  # E: arg-type
wire_scheduler(name="nightly", func=report)  # E: call-arg
wire_scheduler("nightly", "@daily", report)  # E: call-arg
