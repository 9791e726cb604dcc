"""The project that the tests of the commands work in."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.made(tmp_path)
