"""No fault loses a run, repeats a recorded step, or lets a zombie's write be seen.

`PIKKU_TEST_SEED=7` plays every row with that seed alone, as a failure prints it.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from tests.faults.matrix import Row, Setting
from tests.faults.places import PLACES
from tests.faults.rows.data import damage
from tests.faults.scenarios import ROWS
from tests.servers.fixtures import note_use, unavailable


def need(store: str) -> None:
    """Skip the test where the store's server is not here."""
    place = PLACES[store]
    why = place.missing()
    if why is not None:
        unavailable(place.requirement, why)
    note_use(place.program())


def seeds(row: Row, store: str) -> list[int]:
    """Those of one row on one store: always the same, but others for each."""
    given = os.environ.get("PIKKU_TEST_SEED")
    if given:
        return [int(given)]
    first = zlib.crc32(f"{row.name} {store}".encode()) % 10_000
    return [first + i for i in range(row.seeds)]


def matrix() -> list[ParameterSet]:
    return [
        pytest.param(row, store, seed, id=f"{row.name}-{store}-{seed}")
        for row in ROWS.values()
        for store in row.stores
        for seed in seeds(row, store)
    ]


@pytest.mark.parametrize(("row", "store", "seed"), matrix())
async def test_nothing_is_lost_repeated_or_overwritten(
    row: Row, store: str, seed: int, tmp_path: Path
) -> None:
    need(store)
    await row.play(tmp_path / "site", seed, store)


# Whose process dies before it has noticed: every second one here, all of them in `ROWS`.
DAMAGES = [
    (store, kind, bool(number % 2))
    for store in ROWS["damaged"].stores
    for number, kind in enumerate(PLACES[store].damages)
]


@pytest.mark.parametrize(
    ("store", "kind", "dies"),
    DAMAGES,
    ids=[f"{store}-{kind}-{'dies' if dies else 'lives'}" for store, kind, dies in DAMAGES],
)
async def test_damaged_data_fail_the_run_that_they_belong_to_and_no_other(
    store: str, kind: str, dies: bool, tmp_path: Path
) -> None:
    need(store)
    await damage(Setting(tmp_path / "site", 1, store), kind, dies=dies)


def test_every_row_of_the_matrix_is_played_on_every_store_that_it_concerns() -> None:
    played = {
        (number, store)
        for row in ROWS.values()
        for number in row.numbers.split(", ")
        for store in row.stores
    }
    for number in ("1", "2", "3", "4", "12", "13", "14", "15", "20", "21", "22", "23"):
        assert {(number, store) for store in ("sqlite", "redis", "postgres")} <= played, number
    for number in ("5", "7", "8", "10"):
        assert {(number, store) for store in ("redis", "postgres", "pgbouncer")} <= played, number
    assert {("6", "redis"), ("9", "redis"), ("9", "postgres"), ("16", "redis")} <= played
    assert {("17", "sqlite"), ("17", "postgres")} <= played
    assert {("18", "sqlite"), ("19", "postgres"), ("11", "postgres"), ("11", "redis")} <= played
