from contextlib import asynccontextmanager


@asynccontextmanager
async def create() -> int:
    yield 1
