from dataclasses import dataclass
from datetime import date

from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    wire_scheduler,
    wire_workflow,
)

NAME = "computed"
OPTIONS = {"name": "x"}


@dataclass
class Range:
    first: str


@pikku_func
async def report(ctx: Context) -> None: ...


@pikku_func
async def report_of(ctx: Context, data: Range) -> None: ...


@pikku_func
async def report_day(ctx: Context, day: date) -> None: ...


@pikku_func
async def report_text(ctx: Context, day: str | int) -> None: ...


@pikku_workflow_func
async def unwired(ctx: WorkflowContext) -> None: ...


@pikku_workflow_func
async def with_data(ctx: WorkflowContext, data: Range) -> None: ...


async def plain(ctx: Context) -> None: ...


wire_workflow(name="with data", func=with_data)
wire_workflow(name="schedule:with data", func=with_data)

wire_scheduler(name="nightly", schedule="0 3 * * *", func=report)
wire_scheduler(name="nightly", schedule="0 4 * * *", func=report)
wire_scheduler(name="range", schedule="@daily", func=report_of)
wire_scheduler(name="day", schedule="@daily", func=report_day)
wire_scheduler(name="text", schedule="@daily", func=report_text)
wire_scheduler(name="with data", schedule="@daily", func=with_data)
wire_scheduler(name="unwired", schedule="@daily", func=unwired)
wire_scheduler(name="plain", schedule="@daily", func=plain)
wire_scheduler(name="typo", schedule="@daily", func=reprot)
wire_scheduler(name="call", schedule="@daily", func=print())
wire_scheduler(name="minute", schedule="60 * * * *", func=report)
wire_scheduler(name="seconds", schedule="0 0 3 * * *", func=report)
wire_scheduler(name="empty", schedule="", func=report)
wire_scheduler(name="february", schedule="0 0 30 2 *", func=report)
wire_scheduler(name="alias", schedule="@dayly", func=report)
wire_scheduler(name="zone", schedule="@daily", timezone="Europe/Berln", func=report)
wire_scheduler(name="no zone", schedule="@daily", timezone="", func=report)
wire_scheduler(name="both", schedule="never", timezone="here", func=report)
wire_scheduler(name=NAME, schedule="@daily", func=report)
wire_scheduler(name="", schedule="@daily", func=report)
wire_scheduler(name="described", schedule="@daily", func=report, description=NAME)
wire_scheduler("positional", "@daily", report)
wire_scheduler(**OPTIONS)
wire_scheduler(name="nothing", func=report)
wire_scheduler(name="option", cron="@daily", schedule="@daily", func=report)


def make() -> None:
    wire_scheduler(name="inner", schedule="@daily", func=report)
