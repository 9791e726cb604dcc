"""A failure here says how to see it again."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fuzz.kit import REPEAT, TIMES
from tests.runtime.conftest import toy as toy

TIMEOUT_SECONDS = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where more examples are asked for, they have more time."""
    here = str(Path(__file__).parent)
    for item in items:
        if TIMES > 1 and str(item.path).startswith(here):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS * TIMES))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside what failed: the seed, and how many examples were drawn."""
    report = yield
    if report.failed:
        report.sections.append(("fuzz", f"{REPEAT} pytest '{item.nodeid}'"))
    return report
