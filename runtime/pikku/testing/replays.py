"""Whether today's code still replays recorded runs, as a line in a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pikku._app import App
from pikku.errors import HistoryFormatError

History = Mapping[str, Any] | Path | str
"""An exported run: what `Run.export` gives, or the path of a file of `pikku runs export`."""


def assert_replays(app: App[Any], history: History) -> None:
    """Replay an exported run with today's code. Nothing is executed, and no app need be open.

        assert_replays(app, "histories/order-1.json")

    Raises:
        ReplayDivergedError: the code does not take the recorded way, with the difference.
        HistoryFormatError: *history* is no exported run.
        UnknownWorkflowError: no workflow has the name of the run's.
    """
    app.verify_replay(read_history(history))


def read_history(history: History) -> Mapping[str, Any]:
    """The exported run that *history* is, or names.

    Raises:
        HistoryFormatError: the file holds none.
    """
    if isinstance(history, Mapping):
        return history
    try:
        data: Any = json.loads(Path(history).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HistoryFormatError("", f"{history}: {error}") from error
    if not isinstance(data, dict):
        raise HistoryFormatError("", f"{history} holds {type(data).__name__}, no exported run")
    return cast(dict[str, Any], data)
