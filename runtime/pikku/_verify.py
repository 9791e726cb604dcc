"""Whether today's code still takes the way that a recorded run took: replayed, nothing executed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pikku._records import LoadedRun
from pikku._replay import Divergence, Replay
from pikku.errors import PikkuError, ReplayDivergedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pikku._functions import WiredWorkflow
    from pikku._records import RunRecord


def verify(
    loaded: LoadedRun,
    wired: WiredWorkflow,
    make_context: Callable[[RunRecord, Replay], Any],
) -> None:
    """Replay the run to the end of its history.

    Raises:
        ReplayDivergedError: the code does not take the recorded way, with the difference.
    """
    run = loaded.run
    declaration = wired.workflow.declaration
    replay = Replay(run.run_id, loaded.steps, run.deliveries)
    context = make_context(run, replay)
    try:
        function = functools.partial(wired.workflow.func, context)
        if declaration.takes_input:
            data = declaration.input.decode(run.input, f"input of {wired.name!r}")
            function = functools.partial(wired.workflow.func, context, data)
        replay.start(function)
        _repeat(run, replay)
        _compare_end(run, replay, wired)
    except ReplayDivergedError:
        raise
    except PikkuError as error:
        raise ReplayDivergedError(run.run_id, run.workflow, str(error)) from error
    finally:
        replay.discard()


def _repeat(run: RunRecord, replay: Replay) -> None:
    for number in range(1, run.deliveries + 1):
        if number == run.cancel_delivery:
            if (missed := replay.never_asked(before=number)) is not None:
                _diverged(run, missed)
            replay.deliver_cancel()
        else:
            outcome = replay.recorded_outcome(number)
            if outcome is None:
                raise ReplayDivergedError(
                    run.run_id, run.workflow, f"its outcome number {number} is missing"
                )
            replay.deliver(outcome)
        _raise_if_stopped(run, replay)
    _raise_if_stopped(run, replay)
    if run.cancel_us is None and (forgotten := replay.never_asked()) is not None:
        _diverged(run, forgotten)


def _raise_if_stopped(run: RunRecord, replay: Replay) -> None:
    if replay.divergence is not None:
        _diverged(run, replay.divergence)
    if replay.failure is not None:
        raise ReplayDivergedError(run.run_id, run.workflow, str(replay.failure))


def _diverged(run: RunRecord, divergence: Divergence) -> None:
    raise ReplayDivergedError(run.run_id, run.workflow, divergence.message())


def _compare_end(run: RunRecord, replay: Replay, wired: WiredWorkflow) -> None:
    """A run that completed does so again, with the same result. What failed may be mended now."""
    if run.status != "completed":
        return
    main = replay.main
    assert main is not None
    if not main.done():
        asked = [ask.key for ask in replay.new_asks]
        what = f"asks for step {asked[0]!r}" if asked else "still waits"
        raise ReplayDivergedError(
            run.run_id, run.workflow, f"the history says that it completed, and the code {what}"
        )
    error = None if main.cancelled() else main.exception()
    if main.cancelled() or error is not None:
        raise ReplayDivergedError(
            run.run_id, run.workflow, f"the history says that it completed, and the code: {error!r}"
        )
    text, _ = wired.workflow.declaration.output.encode(
        main.result(), f"the result of {wired.name!r}"
    )
    if text != run.output:
        raise ReplayDivergedError(
            run.run_id,
            run.workflow,
            f"the history says that it returned {run.output}, and the code returns {text}",
        )
