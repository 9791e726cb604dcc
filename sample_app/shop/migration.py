"""A migration of all customers, page by page: killed half-way, it goes on where it was."""

from __future__ import annotations

from pikku import StepFailure
from shop.types import Migrated, Migration, Page
from shop_pikku import (
    Context,
    WorkflowContext,
    pikku_func,
    pikku_workflow_func,
    wire_workflow,
)


@pikku_func
def list_customers(ctx: Context, page: Page) -> list[int]:
    """The numbers of the customers of one page."""
    return ctx.services.customers.page(page.after, page.size)


@pikku_func
def migrate_customer(ctx: Context, number: int) -> None:
    """Bring one record into today's form. Doing it twice would do no harm."""
    ctx.services.customers.migrate(number)


@pikku_workflow_func
async def migration_workflow(ctx: WorkflowContext, job: Migration) -> Migrated:
    """Migrate all customers; a few broken records in each page are listed, more stop it."""
    done = Migrated(migrated=0, failed=[])
    after, number = 0, 1
    while customers := await ctx.workflow.do(
        f"Read page {number}", list_customers, Page(after, job.page_size)
    ):
        results = await ctx.workflow.map(
            f"Migrate page {number}",
            migrate_customer,
            customers,
            max_concurrency=20,
            tolerated_failures=job.tolerated_failures,
        )
        failed = [each.input for each in results if isinstance(each, StepFailure)]
        done.migrated += len(customers) - len(failed)
        done.failed += failed
        after, number = customers[-1], number + 1
    return done


wire_workflow(name="migration", description="Customer records", func=migration_workflow)
