from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pikku


class Kit: ...


@asynccontextmanager
async def make(config: "pikku.Config") -> "AsyncIterator[Kit]":
    yield Kit()
