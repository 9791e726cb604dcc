import shop_pikku
from shop.functions import pack
from shop.types import Mail
from shop_pikku import WorkflowContext, pikku_workflow_func, queues, wire_queue_worker, wire_workflow


@pikku_workflow_func
async def flow(ctx: WorkflowContext, data: Mail) -> None:
    await queues.mail.add(data)
    await queues.add("parcels", {"sku": "1"})
    await shop_pikku.queues.mail.add_many([data])
    mail = queues.mail
    await mail.add(data)
    await queues.mial.add(data)
    await ctx.workflow.do("Pack", pack, {"sku": "1"})


wire_workflow(name="flow", func=flow)
wire_workflow(name="queue:mail", func=flow)
wire_queue_worker(queue="flows", func=flow)
