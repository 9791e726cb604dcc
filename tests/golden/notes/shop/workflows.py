from dataclasses import dataclass

from shop_pikku import WorkflowContext, pikku_workflow_func, wire_workflow


@dataclass
class Order:
    order_id: str


@pikku_workflow_func
async def order(ctx: WorkflowContext, data: Order) -> None: ...


@pikku_workflow_func
async def later(ctx: WorkflowContext) -> None: ...


wire_workflow(name="order", func=order)
wire_workflow(name="later", func=later)
