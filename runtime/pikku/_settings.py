"""Settings: from the command line, the environment, and what pikku-gen baked into the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pikku.errors import SettingError, nearest

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_STORE = "sqlite:///.pikku/runs.db"
ENVIRONMENT = {"store": "PIKKU_STORE", "queue_service": "PIKKU_QUEUE_SERVICE"}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in effect; a services factory may take it as its one argument.

    Attributes:
        store: the URL of the store.
        queue_service: `none` (runs are executed where they are started).
        project: the folder from which relative paths count.
    """

    store: str
    queue_service: str
    project: Path


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
    values = {"store": DEFAULT_STORE, "queue_service": "none"}
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
    if values["queue_service"] != "none":
        raise SettingError(
            f"queue_service is {values['queue_service']!r}",
            hint="this version executes runs where they are started: leave it out, or write 'none'",
        )
    return Config(values["store"], values["queue_service"], project), origins


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
