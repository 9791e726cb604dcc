from market_pikku import WorkflowContext, pikku_workflow_func, wire_workflow


@pikku_workflow_func
async def only_flow(ctx: WorkflowContext, data: list[int]) -> None: ...


wire_workflow(name="only", func=only_flow)
