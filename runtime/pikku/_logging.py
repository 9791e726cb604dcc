"""`ctx.logger`: log records that say which run and step they come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

log = logging.getLogger("pikku.run")


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry the run, the workflow and, in a step, its name and attempt.

    In a workflow body it is silent while recorded history is repeated.
    """

    def __init__(self, extra: Mapping[str, object], replay: Any = None) -> None:
        super().__init__(log, extra)
        self._replay = replay

    def isEnabledFor(self, level: int) -> bool:  # the name in logging
        if self._replay is not None and self._replay.replaying:
            return False
        return super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
