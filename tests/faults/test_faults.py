"""No fault loses a run, repeats a recorded step, or lets a zombie's write be seen.

`PIKKU_TEST_SEED=7` runs every row with that seed alone, as a failure prints it.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from tests.faults.scenarios import CORRUPTIONS, ROWS, ROWS_IN_FILE, Scenario, corrupted
from tests.servers.redis import servers

with_server = pytest.mark.skipif(not servers(), reason="no redis-server or valkey-server here")


def seeds(name: str, count: int) -> list[int]:
    """Those of one row: always the same, but others for each row."""
    given = os.environ.get("PIKKU_TEST_SEED")
    if given:
        return [int(given)]
    first = zlib.crc32(name.encode()) % 10_000
    return [first + i for i in range(count)]


def name_of(scenario: Scenario) -> str:
    named = scenario.func if isinstance(scenario, functools.partial) else scenario
    return str(getattr(named, "__name__"))  # noqa: B009  # a callable of any kind


def matrix(rows: Mapping[Scenario, int]) -> list[ParameterSet]:
    return [
        pytest.param(scenario, seed, id=f"{name_of(scenario)}-{seed}")
        for scenario, count in rows.items()
        for seed in seeds(name_of(scenario), count)
    ]


@with_server
@pytest.mark.parametrize(("scenario", "seed"), matrix(ROWS))
async def test_nothing_is_lost_repeated_or_overwritten(
    scenario: Scenario, seed: int, tmp_path: Path
) -> None:
    await scenario(tmp_path / "site", seed)


@pytest.mark.parametrize(("scenario", "seed"), matrix(ROWS_IN_FILE))
async def test_nothing_is_lost_repeated_or_overwritten_in_a_file(
    scenario: Scenario, seed: int, tmp_path: Path
) -> None:
    await scenario(tmp_path / "site", seed)


@with_server
@pytest.mark.parametrize("owner", ["lives", "dies"])
@pytest.mark.parametrize("kind", sorted(CORRUPTIONS))
async def test_damaged_data_fail_the_run_that_they_belong_to_and_no_other(
    kind: str, owner: str, tmp_path: Path
) -> None:
    await corrupted(tmp_path / "site", 1 if owner == "dies" else 0, kind)
