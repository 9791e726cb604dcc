from .deps import Context, task


@task(
    expose=True,
    retries=2,
    queue="mail",
    dispatch="queue",
    executor="process",
    tags=["a", "b"],
    description="By an alias " "in two pieces",
)
def aliased(ctx: Context) -> None: ...
