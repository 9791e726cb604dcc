"""Which runs a command is about: one id, or all that options describe, and the consent to that."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from pikku._ids import is_unicode
from pikku._records import RUN_STATUSES, RunFilter, RunStatus
from pikku.errors import DurationError

if TYPE_CHECKING:
    from pikku._records import RunRecord

F = TypeVar("F", bound=Callable[..., Any])


def readable(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """What was typed; bytes that are no text find nothing in any store."""
    if given is not None and not is_unicode(given):
        raise click.BadParameter(f"{given!r} is no valid Unicode")
    return given


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_id_argument = click.argument("run_id", metavar="ID", callback=readable)
waiting = click.option("--wait", is_flag=True, help="Wait for the end and print the result.")
time_limit = click.option(
    "--timeout", metavar="DURATION", help="With --wait: for how long at most, such as 30s or 5min."
)
unasked = click.option("--yes", is_flag=True, help="Do it without being asked.")
every_run = click.option("--all", "every", is_flag=True, help="All runs that there are.")
by_status = click.option(
    "--status", type=click.Choice(RUN_STATUSES), help="Only runs with this status."
)


def moment(
    context: click.Context, parameter: click.Parameter, given: str | None
) -> datetime | None:
    """The time that an option names, or names by how long ago it was."""
    from pikku._clock import SystemClock, as_datetime
    from pikku._durations import duration_us

    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        try:
            return as_datetime(SystemClock().now_us() - duration_us(given))
        except DurationError:
            raise click.BadParameter(
                f"{given!r} is neither a time such as 2030-01-31T12:00 nor a duration such as 2h"
            ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


class Chosen(NamedTuple):
    """What the options of a command describe."""

    wanted: RunFilter
    anything: bool


def choice(*, status: bool = True, finished: bool = False) -> Callable[[F], F]:
    """The options that describe runs, handed to the command as one `chosen`."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def with_chosen(
            *args: Any,
            workflow: str | None,
            tag: str | None,
            text: str | None,
            since: datetime | None,
            until: datetime | None,
            status: str | None = None,
            finished_before: datetime | None = None,
            **options: Any,
        ) -> Any:
            given = (workflow, status, tag, text, since, until, finished_before)
            wanted = RunFilter(
                workflow,
                cast("RunStatus | None", status),
                tag,
                before_us=_us(until),
                after_us=_us(since),
                ended_before_us=_us(finished_before),
                text=text,
            )
            chosen = Chosen(wanted, any(each is not None for each in given))
            return command(*args, chosen=chosen, **options)

        made: Any = with_chosen
        for option in reversed(_options(status, finished)):
            made = option(made)
        return cast("F", made)

    return decorate


def _options(status: bool, finished: bool) -> list[Callable[[Any], Any]]:
    options: list[Callable[[Any], Any]] = [
        click.option(
            "--workflow", callback=readable, metavar="NAME", help="Only runs of this workflow."
        ),
        click.option("--tag", callback=readable, help="Only runs with this tag."),
        click.option(
            "--text",
            callback=readable,
            help="Only runs with this in id, workflow, tags, starter or error.",
        ),
        click.option(
            "--since",
            callback=moment,
            metavar="TIME",
            help="Only runs created then or later: 2030-01-31T12:00 (UTC), or 2h for how long ago.",
        ),
        click.option(
            "--until", callback=moment, metavar="TIME", help="Only runs created before, likewise."
        ),
    ]
    if status:
        options.insert(1, by_status)
    if finished:
        options.append(
            click.option(
                "--finished-before",
                callback=moment,
                metavar="TIME",
                help="Only runs that ended before, likewise.",
            )
        )
    return options


def _us(at: datetime | None) -> int | None:
    from pikku._clock import as_us

    return None if at is None else as_us(at)


def one_or_many(run_id: str | None, chosen: Chosen, *, every: bool) -> bool:
    """Whether a command is about one run; else it is about all that are chosen.

    Raises:
        click.UsageError: if neither is said, or both are.
    """
    many = every or chosen.anything
    if run_id is not None and many:
        raise click.UsageError("give an ID, or say which runs; not both")
    if run_id is None and not many:
        raise click.UsageError("give an ID, or say which runs, such as --workflow NAME or --all")
    return run_id is not None


def counted(count: int, what: str = "run") -> str:
    """So many of them, in words."""
    return f"1 {what}" if count == 1 else f"{count} {what}s"


def consent(found: list[RunRecord], what: str, *, yes: bool) -> bool:
    """Whether to go on with what would be done to many runs.

    Raises:
        click.UsageError: if nobody can be asked.
    """
    return not found or agreed(f"{counted(len(found))} would be {what}", yes=yes)


def agreed(said: str, *, yes: bool) -> bool:
    """Whether to go on with what is *said* to be about to happen.

    Raises:
        click.UsageError: if nobody can be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{said}; to do it without being asked: --yes")
    return click.confirm(f"{said}. Go on?", err=True)
