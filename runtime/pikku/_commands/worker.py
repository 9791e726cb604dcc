"""`pikku worker`: hosts the engine until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pikku._commands.output import tell
from pikku._commands.target import Target
from pikku._records import RunFilter

if TYPE_CHECKING:
    from pikku._commands.hosting import Stop

TOLD_AT_MOST = 1000


@click.command()
@click.pass_obj
def worker(target: Target) -> None:
    """Execute runs that wait or were interrupted, until SIGTERM or Ctrl-C.

    The first signal finishes what is under way, the second one stops at once.
    """
    from pikku._commands.hosting import hosting, log_to_stderr, run_until_stopped

    log_to_stderr()
    app = target.load_app()

    async def main(stop: Stop) -> None:
        async with hosting(app, target.store, sticky=True) as engine:
            tell(f"worker of {app.package} on {engine.store.address}")
            for run in await engine.store.list_runs(
                RunFilter(status="running", limit=TOLD_AT_MOST)
            ):
                if run.owner == engine.session_id:
                    tell(f"run {run.run_id} of {run.workflow} goes on here")
            await stop.asked.wait()
        tell("stopped; what was not finished goes on in the next host")

    run_until_stopped(main)
