"""`pikku worker`: hosts the engine until it is told to stop."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pikku._commands.logs import log_options
from pikku._commands.output import tell
from pikku._commands.scrapes import Scrapes, metrics_options
from pikku._commands.target import Target
from pikku.errors import SettingError, nearest

if TYPE_CHECKING:
    from pikku._app import App
    from pikku._commands.hosting import Stop
    from pikku._functions import Registry
    from pikku._metrics import Metrics

EXIT_STUCK = 70


@click.command()
@click.option(
    "--queues",
    "given",
    metavar="A,B",
    help="Only these: queues of functions, `default` for functions without one, `orchestrator` "
    "for the runs themselves.  [default: all]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many steps a process executes at once.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many processes to keep going.",
)
@metrics_options
@log_options
@click.option("--child", is_flag=True, hidden=True, help="Stop when stdin ends.")
@click.option("--counted", is_flag=True, hidden=True, help="Count for the one that is scraped.")
@click.pass_context
def worker(
    context: click.Context,
    given: str | None,
    concurrency: int,
    processes: int,
    metrics_port: int | None,
    metrics_host: str,
    log_format: str | None,
    log_level: str,
    child: bool,
    counted: bool,
) -> None:
    """Execute runs and jobs that wait or were interrupted, until SIGTERM or Ctrl-C.

    The first signal finishes what is under way, the second one stops at once.
    """
    from pikku._commands.hosting import log_to_stderr, register, run_until_stopped

    target: Target = context.obj
    app = target.load_app()
    queues: tuple[str, ...] | None = None
    if given is not None:
        register(app)
        queues = _queues(given, app)
    logged = log_to_stderr(target, log_format, log_level)
    scrapes = None if metrics_port is None else Scrapes(metrics_host, metrics_port)
    metrics = None
    if scrapes is not None or counted:
        from pikku._commands.scrapes import metrics_here

        metrics = metrics_here("--metrics-port")
    if processes == 1:
        work = Working(target, app, queues, concurrency, child, metrics, scrapes)
        run_until_stopped(work.until)
        return
    command = _command(
        target,
        queues,
        concurrency,
        [
            *("--log-format", logged, "--log-level", log_level),
            *(["--counted"] if scrapes is not None else []),
        ],
    )
    tell(f"worker of {app.package}: {processes} processes")

    async def keep(stop: Stop) -> int:
        from pikku._commands.scrapes import answering_for_several
        from pikku._commands.supervisor import supervise

        async with answering_for_several(scrapes, target):
            return await supervise(stop, command, processes, numbered=logged != "json")

    context.exit(run_until_stopped(keep))


@dataclass(frozen=True, slots=True)
class Working:
    """What one process of a worker does."""

    target: Target
    app: App[Any]
    queues: tuple[str, ...] | None
    concurrency: int
    child: bool
    metrics: Metrics | None
    scrapes: Scrapes | None

    async def until(self, stop: Stop) -> None:
        """Work until *stop* asks."""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        from pikku._commands.hosting import exit_if_held_up, hosting
        from pikku._commands.scrapes import answering
        from pikku._settings import Work

        app, store = self.app, self.target.store
        if self.child:
            _stop_with_parent(stop)
        executor = ThreadPoolExecutor(thread_name_prefix="pikku-worker")
        asyncio.get_running_loop().set_default_executor(executor)
        work = Work(self.queues, self.concurrency, lambda: os._exit(EXIT_STUCK))
        async with hosting(app, store, sticky=True, work=work, metrics=self.metrics) as engine:
            stop.under_way = lambda: engine.in_flight
            async with answering(self.scrapes, engine.store):
                named = ", ".join(self.queues or _known_queues(app.registry))
                tell(
                    f"worker of {app.package} on {engine.store.address}; "
                    f"queues: {named}; concurrency: {self.concurrency}"
                )
                await stop.asked.wait()
        left = engine.handed_back
        tell(f"stopped; {left} handed back" if left else "stopped; nothing was left unfinished")
        executor.shutdown(wait=False, cancel_futures=True)
        await exit_if_held_up(0)


def _stop_with_parent(stop: Stop) -> None:
    """Ask to stop once stdin ends, which is when the process that holds its other end has."""
    from asyncio import get_running_loop

    loop = get_running_loop()

    def wait() -> None:
        while os.read(0, 1024):
            pass
        nowhere = os.open(os.devnull, os.O_WRONLY)  # what that process read, nobody reads now
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        loop.call_soon_threadsafe(stop.ask, "the supervising process is gone")

    threading.Thread(target=wait, name="pikku-parent", daemon=True).start()


def _known_queues(registry: Registry) -> tuple[str, ...]:
    from pikku.stores.base import DEFAULT_QUEUE, ORCHESTRATOR_QUEUE

    return (DEFAULT_QUEUE, *sorted(registry.queues - {DEFAULT_QUEUE}), ORCHESTRATOR_QUEUE)


def _queues(given: str, app: App[Any]) -> tuple[str, ...]:
    """The queues that *given* lists.

    Raises:
        SettingError: for one that no function of the app has.
    """
    known = _known_queues(app.registry)
    names = tuple(dict.fromkeys(name for each in given.split(",") if (name := each.strip())))
    for name in names or ("",):
        if name not in known:
            raise SettingError(
                f"no function of {app.package} has the queue {name!r}", hint=nearest(name, known)
            )
    return names


def _command(
    target: Target, queues: tuple[str, ...] | None, concurrency: int, further: list[str]
) -> list[str]:
    """The command line of one of several processes."""
    options = (("--app", target.app), ("--store", target.store))
    named = [part for name, value in options if value is not None for part in (name, value)]
    chosen = [] if queues is None else ["--queues", ",".join(queues)]
    return [
        *(sys.executable, "-m", "pikku.cli", *named),
        *("worker", *chosen, "--concurrency", str(concurrency), *further, "--child"),
    ]
