"""Every scenario, by the row of the fault matrix that it belongs to."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.driver import Site
from tests.faults.matrix import FILE, ROWS, Row, Setting
from tests.faults.rows import data, network, processes, servers, storm

__all__ = ["ROWS", "Row", "Setting", "data", "in_file", "network", "processes", "servers", "storm"]


@asynccontextmanager
async def in_file(folder: Path, seed: int, **engine: Any) -> AsyncGenerator[Site, None]:
    """A site on a SQLite file."""
    async with Setting(folder, seed, FILE).site(**engine) as opened:
        yield opened
