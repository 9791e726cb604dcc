from shop.deps import WorkflowContext, flow, signal, wire
from shop.functions import annotated


@flow
async def count(ctx: WorkflowContext) -> str:
    return await ctx.workflow.do("Ask", annotated, 1)


wire(name="count-things", func=count)
wire(name="class", func=count)
by_alias = signal(name="send_signal", payload=None)
