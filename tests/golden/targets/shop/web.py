from shop_pikku import Context, get_run, pikku_func, rpc, start_workflow


async def sign_up() -> None:
    await start_workflow("ordr", {"order_id": "1", "amount": 2})
    await rpc.invoke("pong")
    get_run("order", "1")


@pikku_func
async def caller(ctx: Context) -> None:
    await ctx.rpc.invoke("charge", {"order_id": 1})
    await ctx.rpc.invoke("send_email", {"to": 1, "message": "", "copy": ""})


async def of_the_other_kind() -> None:
    await start_workflow("charge", {"order_id": "1", "amount": 2})
    await rpc.invoke("order")
