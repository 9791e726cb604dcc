from shop.functions import charge
from shop_pikku import WorkflowContext, pikku_workflow_func, wire_workflow


@pikku_workflow_func
async def onboarding_workflow(ctx: WorkflowContext) -> None: ...


@pikku_workflow_func
async def order_workflow(ctx: WorkflowContext) -> None: ...


wire_workflow(name="user-onboarding", func=onboarding_workflow)
wire_workflow(name="user_onboarding", func=order_workflow)
wire_workflow(name="order", func=order_workflow)
wire_workflow(name="order", func=onboarding_workflow)
wire_workflow(name="charge", func=charge)
wire_workflow(name="missing", func=order_workflw)
