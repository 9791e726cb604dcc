"""What the tests of a run's whole life share: places with a mode, and words for what happened."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tests.runtime.kit import Lab, Toy, World

from pikku import App, Registry, Run, RunCancelledError, RunFailedError

Mode = Literal["inline", "remote"]
PATIENCE = "3s"
"""How long a test waits for an end that is due at once."""


@dataclass(frozen=True)
class Place(World):
    """A place for runs, and the way they are executed there."""

    mode: Mode = "inline"

    def lab(
        self, toy: Toy, *, auto_advance: bool = False, services: Any = None, **changes: Any
    ) -> Lab:
        """The app, open for one test; time passes by `advance` only."""
        lab = super().lab(toy, auto_advance=auto_advance, services=services, **changes)
        lab.queue_service = "store" if self.mode == "remote" else "none"
        return lab

    def beside(self, lab: Lab, toy: Toy) -> Lab:
        """Another process at the store of *lab*, with the code of *toy* and the same clock."""
        other = self.lab(toy)
        other.clock = lab.clock
        return other


def versioned(**versions: str) -> Toy:
    """An app whose workflows have these versions."""
    toy = Toy()
    toy.registry = Registry("toy", versions=versions)
    toy.app = App(registry=toy.registry, package="toy")
    return toy


async def done(lab: Lab, run: Run[Any]) -> Any:
    """The result of a run that has all it needs to end."""
    await lab.settle()
    return await run.result(timeout=PATIENCE)


async def failure(lab: Lab, run: Run[Any]) -> RunFailedError:
    """The failure of a run that has all it needs to fail."""
    await lab.settle()
    with pytest.raises(RunFailedError) as caught:
        await run.result(timeout=PATIENCE)
    return caught.value


async def cancelled(lab: Lab, run: Run[Any]) -> str:
    """The reason of the cancellation that ended the run."""
    await lab.settle()
    with pytest.raises(RunCancelledError) as caught:
        await run.result(timeout=PATIENCE)
    return caught.value.reason


async def kinds(run: Run[Any]) -> list[str]:
    """What happened in the run, in order."""
    return [event.kind for event in await run.history()]


async def statuses(lab: Lab, run: Run[Any] | str) -> dict[str, str]:
    """The status of each step of the run."""
    loaded = await lab._store.load_steps(str(run))
    assert loaded is not None
    return {step.key: step.status for step in loaded.steps}


async def children(lab: Lab, run: Run[Any]) -> list[str]:
    """The ids of the runs whose parent the run is, oldest first."""
    found = [info for info in await lab.app.list_runs(limit=1000) if info.parent == str(run)]
    return [info.run_id for info in sorted(found, key=lambda info: info.created_at)]


async def everything(lab: Lab) -> Mapping[str, Any]:
    """All that the store shows of its runs, to tell that a refusal has changed nothing."""
    shown: dict[str, Any] = {}
    for info in await lab.app.list_runs(limit=1000):
        loaded = await lab._store.load_steps(info.run_id)
        assert loaded is not None
        run = dataclasses.replace(loaded.run, owner=None, turned_by=None, queued=False)
        steps = [dataclasses.replace(step) for step in loaded.steps]
        shown[info.run_id] = (run, steps, list(await lab._store.load_history(info.run_id)))
    return shown
