"""Options shared by all tests."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.servers.fixtures", "tests.simulation.summary"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites what the golden cases expect."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the generator makes of tests/golden over what is expected",
    )
