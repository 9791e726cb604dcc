"""Inline or remote: decided by whether a queue service is there, and by nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.runtime.kit import Ctx, Toy, Wf

from pikku import App, Config, QueueService, Run, StoreQueueService
from pikku._settings import Work
from pikku.errors import SettingError


@dataclass(frozen=True)
class Services:
    queue_service: QueueService | None = None


class Own:
    """Somebody's own class: being there is enough."""


@pytest.fixture
def toy() -> Toy:
    made = Toy()

    @made.func
    async def shout(ctx: Ctx, word: str) -> str:
        return word.upper()

    @made.workflow
    async def shouting(ctx: Wf, word: str) -> str:
        return str(await ctx.workflow.do("Shout", shout, word))

    return made


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(autouse=True)
def _no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIKKU_QUEUE_SERVICE", raising=False)


async def mode_of(toy: Toy, url: str, **opened: Any) -> str:
    """Where a run that is started here is executed."""
    async with toy.app.open(store=url, **opened):
        run: Run[Any] = await toy.start("shouting", "hello")
        store = toy.app.opened.engine.store
        loaded = await store.load_steps(run.run_id)
        assert loaded is not None
        record = loaded.run
        if record.inline:
            assert (record.status, json.loads(record.output or "null")) == ("completed", "HELLO")
            return "inline"
        # Whoever starts it executes none of it.
        assert (record.status, record.queued, record.owner) == ("running", True, None)
        assert loaded.steps == ()
        return "remote"


# --- the services -------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [StoreQueueService(), Own(), object(), 0, False, "", "none"])
async def test_a_queue_service_among_the_services_makes_runs_remote(
    toy: Toy, url: str, present: Any
) -> None:
    assert await mode_of(toy, url, services=Services(present)) == "remote"


@pytest.mark.parametrize("services", [Services(None), SimpleNamespace(), None, object()])
async def test_without_one_runs_are_inline(toy: Toy, url: str, services: Any) -> None:
    assert await mode_of(toy, url, services=services) == "inline"


@pytest.mark.parametrize("present", [StoreQueueService(), None])
async def test_what_the_factory_makes_is_looked_at_like_what_is_handed_over(
    toy: Toy, url: str, present: QueueService | None
) -> None:
    async def create_services(config: Config) -> Services:
        return Services(present)

    toy.app._services = create_services

    assert await mode_of(toy, url) == ("inline" if present is None else "remote")


async def test_inline_is_inline_on_a_redis_too(toy: Toy, redis_url: str) -> None:
    assert await mode_of(toy, redis_url) == "inline"
    assert await mode_of(toy, redis_url, services=Services(StoreQueueService())) == "remote"


# --- the settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "environment", "baked", "mode"),
    [
        (None, None, None, "inline"),
        (None, None, "none", "inline"),
        (None, None, "store", "remote"),
        (None, "store", None, "remote"),
        (None, "store", "none", "remote"),
        (None, "none", "store", "inline"),
        (None, "", "store", "remote"),
        ("none", "store", "store", "inline"),
        ("store", "none", "none", "remote"),
    ],
)
async def test_without_one_among_the_services_the_settings_decide(
    toy: Toy,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    environment: str | None,
    baked: str | None,
    mode: str,
) -> None:
    settings: Mapping[str, str] = {} if baked is None else {"queue_service": baked}
    toy.app = App(registry=toy.registry, package="toy", settings=settings)
    if environment is not None:
        monkeypatch.setenv("PIKKU_QUEUE_SERVICE", environment)

    assert await mode_of(toy, url, queue_service=argument) == mode


async def test_the_settings_cannot_take_away_what_the_services_have(toy: Toy, url: str) -> None:
    services = Services(StoreQueueService())

    assert await mode_of(toy, url, services=services, queue_service="none") == "remote"


async def test_another_value_of_the_setting_is_refused(toy: Toy, url: str) -> None:
    with pytest.raises(SettingError, match=r"queue_service is 'stor'.*did you mean 'store'"):
        await mode_of(toy, url, queue_service="stor")


# --- remote, and nobody who could see it --------------------------------------------------------


@pytest.mark.parametrize("how", ["services", "settings"])
async def test_runs_in_this_process_memory_cannot_be_left_to_others(toy: Toy, how: str) -> None:
    opened: dict[str, Any] = {"queue_service": "store"}
    if how == "services":
        opened = {"services": Services(StoreQueueService())}

    with pytest.raises(SettingError, match=r"PKR103 .*memory://.* is seen by no other process"):
        await mode_of(toy, "memory://", **opened)

    assert toy.app._open is None


@pytest.mark.parametrize("store", ["memory://", "sqlite"])
async def test_a_process_that_works_itself_executes_what_it_starts(
    toy: Toy, url: str, store: str
) -> None:
    opened: dict[str, Any] = {"services": Services(StoreQueueService()), "work": Work()}

    async with toy.app.open(store=url if store == "sqlite" else store, **opened):
        run = await toy.start("shouting", "hello")

        assert await run.result(timeout="20s") == "HELLO"
        record = await toy.app.opened.engine.store.load_run(run.run_id)
        assert record is not None
        assert not record.inline
