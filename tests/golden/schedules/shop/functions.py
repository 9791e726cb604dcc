import datetime as dt
from datetime import datetime
from typing import Annotated

from shop_pikku import Context, WorkflowContext, pikku_func, pikku_workflow_func, wire_workflow

Due = datetime


@pikku_func
async def nightly_report(ctx: Context) -> int: ...


@pikku_func
async def of_nothing(ctx: Context, data: None) -> None: ...


@pikku_func
def bill(ctx: Context, due: dt.datetime) -> None: ...


@pikku_func
def perhaps(ctx: Context, due: Annotated[datetime, "utc"] | None) -> None: ...


@pikku_func
def by_alias(ctx: Context, due: Due) -> None: ...


@pikku_workflow_func
async def month_end(ctx: WorkflowContext, due: datetime) -> None:
    """Closes the books."""
    await ctx.workflow.do("Bill", bill, due)


wire_workflow(name="month-end", func=month_end)
