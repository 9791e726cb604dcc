from shop_pikku import Context, WorkflowContext, pikku_func, pikku_workflow_func, wire_workflow

OPTIONS = {"name": "x"}
PREFIX = "order-"


def make() -> None:
    @pikku_func
    async def inner(ctx: Context) -> None: ...


class Group:
    @pikku_func(retries=1)
    async def method(self, ctx: Context) -> None: ...


def plain(ctx: Context) -> None: ...


charge = pikku_func(plain)
refund = pikku_func(retries=2)(plain)


@pikku_func(**OPTIONS)
async def unpacked(ctx: Context) -> None: ...


@pikku_func(name=PREFIX + "x", expose=bool(1), tags=PREFIX, retrys=3)
async def computed(ctx: Context) -> None: ...


@pikku_workflow_func
def not_async(ctx: WorkflowContext) -> None: ...


@pikku_func
async def no_context() -> None: ...


@pikku_func
async def two_inputs(ctx: Context, a: int, b: int) -> None: ...


@pikku_func
async def optional(ctx: Context, data: int = 1) -> None: ...


@pikku_func
async def starred(ctx: Context, *rest: int) -> None: ...


@pikku_func
async def untyped(ctx: Context, data): ...


wire_workflow(name=PREFIX, func=not_async)
wire_workflow(name="lambda", func=lambda: None)
wire_workflow("not_async", not_async)
wire_workflow(name="nothing")

if True:
    wire_workflow(name="conditional", func=not_async, description=PREFIX, colour="red")
