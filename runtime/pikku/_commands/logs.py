"""The options that say how a command logs; the commands' modules load nothing for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

log_format_option: Final = click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    help="How to log; default: PIKKU_LOG_FORMAT, else the app's setting, else text.",
)


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--log-format` and `--log-level`."""
    level = click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        default="info",
        show_default=True,
        help="From which level on to log; `debug` shows runs and steps with their inputs, masked "
        "and shortened.",
    )
    return log_format_option(level(command))
