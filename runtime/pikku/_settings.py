"""Settings: from the command line, the environment, and what pikku-gen baked into the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pikku._durations import duration_us
from pikku._payloads import MAX_PAYLOAD_BYTES
from pikku._records import FINAL_STATUSES
from pikku.errors import DurationError, SettingError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from pikku._queues import RateLimit

DEFAULT_STORE = "sqlite:///.pikku/runs.db"
ENVIRONMENT = {
    "store": "PIKKU_STORE",
    "queue_service": "PIKKU_QUEUE_SERVICE",
    "retention": "PIKKU_RETENTION",
    "log_format": "PIKKU_LOG_FORMAT",
    "redact": "PIKKU_REDACT",
}
QUEUE_SERVICES = ("none", "store")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class EngineOptions:
    """What may be tuned; every default is meant to be left alone.

    Attributes:
        lease_seconds: how long a silent process keeps its runs.
        threads: how many synchronous functions run at once.
        sticky: how many runs that wait stay in memory, to go on without a replay; 0 parks each
            at once.
        drain_seconds: how long `close` waits for attempts under way.
        cleanup_timeout_us: how long a cancelled function may clean up.
        max_lost_attempts: after how many processes lost in its attempts a step is given up.
        loop_grace_seconds: for how long the event loop may stand still and keep its runs.
        max_payload_bytes: how large one value may be as JSON; a larger one is refused before
            anything is stored.
        max_streams: how many event streams a process answers at one time over HTTP; each more is
            answered with 503.
        max_streams_per_session: how many of them one person may have, or one address where nothing
            asks who is there; each more is answered with 429.
        request_rate: how many requests a person, or such an address, may make over HTTP within a
            time; each more is answered with 429. None: as many as they like.
    """

    lease_seconds: float = 6.0
    threads: int = 32
    sticky: int = 1000
    drain_seconds: float = 30.0
    cleanup_timeout_us: int = 60_000_000
    max_lost_attempts: int = 3
    loop_grace_seconds: float = 30.0
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    max_streams: int = 1000
    max_streams_per_session: int = 100
    request_rate: RateLimit | None = None


@dataclass(frozen=True)
class Work:
    """What a worker takes on.

    Attributes:
        queues: whose jobs it executes; `orchestrator` stands for the runs themselves. None: all
            that its app has.
        concurrency: how many steps it executes at once, and how many runs it moves at once.
        on_stuck: called, in a thread, when it has given its runs up because its event loop stands
            still.
    """

    queues: tuple[str, ...] | None = None
    concurrency: int = 100
    on_stuck: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in effect; a services factory may take it as its one argument.

    Attributes:
        store: the URL of the store.
        queue_service: `none` (runs are executed where they are started) or `store` (by workers,
            through the store's own queues).
        project: the folder from which relative paths count.
        retention: for how long a run is kept after its end, in microseconds, by its status; a
    """

    store: str
    queue_service: str
    project: Path
    retention: Mapping[str, int] = field(default_factory=dict[str, int])
    log_format: str = "text"
    redact: tuple[str, ...] = ()


def effective(
    baked: Mapping[str, str], overrides: Mapping[str, str | None], project: Path
) -> tuple[Config, dict[str, str]]:
    """The settings, and for each where it comes from: `argument`, `environment`, `project`,
    `default`.

    Raises:
        SettingError: for a value that cannot be.
    """
    for key in baked:
        if key not in ENVIRONMENT:
            raise SettingError(f"unknown setting {key!r}", hint=nearest(key, ENVIRONMENT))
    values = {
        "store": DEFAULT_STORE,
        "queue_service": "none",
        "retention": "",
        "log_format": "text",
        "redact": "",
    }
    origins = dict.fromkeys(values, "default")
    for key, variable in ENVIRONMENT.items():
        layers = (
            ("argument", overrides.get(key)),
            ("environment", os.environ.get(variable)),
            ("project", baked.get(key)),
        )
        for origin, value in layers:
            if value:
                values[key], origins[key] = value, origin
                break
    if values["queue_service"] not in QUEUE_SERVICES:
        raise SettingError(
            f"queue_service is {values['queue_service']!r}",
            hint=nearest(values["queue_service"], QUEUE_SERVICES)
            or "write 'none' (runs are executed where they are started) or 'store' (by workers)",
        )
    if values["log_format"] not in LOG_FORMATS:
        raise SettingError(
            f"log_format is {values['log_format']!r}",
            hint=nearest(values["log_format"], LOG_FORMATS) or "write 'text' or 'json'",
        )
    config = Config(
        values["store"],
        values["queue_service"],
        project,
        parsed_retention(values["retention"]),
        values["log_format"],
        tuple(key for each in values["redact"].split(",") if (key := each.strip())),
    )
    return config, origins


def parsed_retention(text: str) -> dict[str, int]:
    """`30d`, or `completed=30d,failed=90d`, as microseconds by status.

    Raises:
        SettingError: for anything else.
    """
    kept: dict[str, int] = {}
    for part in text.split(",") if text.strip() else ():
        status, equals, duration = part.strip().partition("=")
        if not equals:
            status, duration = "", status
        try:
            us = duration_us(duration)
        except DurationError as error:
            raise SettingError(
                f"retention is {text!r}: {error.message}",
                hint="write 30d, or completed=30d,failed=90d,cancelled=30d",
            ) from None
        if status and status not in FINAL_STATUSES:
            raise SettingError(
                f"retention is {text!r}: {status!r} is no status that a run ends with",
                hint=nearest(status, sorted(FINAL_STATUSES)),
            )
        for each in (status,) if status else FINAL_STATUSES:
            kept[each] = us
    return kept


def project_folder(package: str, relative: str | None) -> Path:
    """The folder of the app's pyproject.toml, as seen from its generated *package*; the current
    folder where the package is installed without its project."""
    from pathlib import Path

    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    if file is not None and relative is not None:
        folder = (Path(file).parent / relative).resolve()
        if (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()
