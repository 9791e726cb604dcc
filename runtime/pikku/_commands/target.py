"""What a command works on: the app it finds, and the store it reads."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pikku.errors import (
    AppNotFoundError,
    ConfigurationError,
    PikkuError,
    SettingError,
    nearest,
)

if TYPE_CHECKING:
    from pikku._app import App
    from pikku._settings import Config
    from pikku.stores.base import Store

PYPROJECT = "pyproject.toml"


@dataclass(frozen=True, slots=True)
class Project:
    """The `[tool.pikku]` table of a pyproject.toml, as far as the commands need it."""

    folder: Path
    root: str | None
    package: str | None
    source: tuple[str, ...]
    output: str | None
    store: str | None
    queue_service: str | None
    retention: str | None
    log_format: str | None
    redact: str | None

    @property
    def import_roots(self) -> list[Path]:
        """The folders from which the app's packages are imported where it is not installed."""
        sources = [self.folder / each for each in self.source]
        if not sources:
            sources = [each for each in (self.folder, self.folder / "src") if each.is_dir()]
        output = [self.folder / self.output] if self.output else []
        return [*sources, *output]

    @property
    def app_package(self) -> str | None:
        """The name of the generated package."""
        if self.package is not None:
            return self.package
        if self.root is not None:
            return f"{self.root}_pikku"
        found = sorted(name for root in self.import_roots for name in _generated(root))
        return found[0] if len(found) == 1 else None


def _generated(folder: Path) -> list[str]:
    """The names of the generated packages in *folder*; none where it cannot be read."""
    try:
        return [init.parent.name for init in folder.glob("*_pikku/__init__.py")]
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class Target:
    """The global options of the program, and what follows from them."""

    app: str | None
    store: str | None

    @property
    def named_app(self) -> str | None:
        """The app that the option or the environment names."""
        return self.app or os.environ.get("PIKKU_APP") or None

    def load_app(self) -> App[Any]:
        """The app, its package imported; the app's own modules are not.

        Raises:
            AppNotFoundError: if there is none to be found.
        """
        project = find_project(Path.cwd())
        _extend_import_path(project)
        package = self.named_app
        if package is None:
            if project is None:
                raise AppNotFoundError(
                    "no app is named, and no pyproject.toml with [tool.pikku] is here or above"
                )
            package = project.app_package
            if package is None:
                raise AppNotFoundError(
                    f"{project.folder / PYPROJECT} does not say which package the app is",
                    hint='write root = "…" under [tool.pikku], then run pikku-gen',
                )
        return _import_app(package, project)

    def settings(self, log_format: str | None = None) -> tuple[Config, dict[str, str]]:
        """The settings in effect and where each comes from, without importing the app's modules.

        Args:
            log_format: what an option of the command says.

        Raises:
            AppNotFoundError: if nothing tells the store.
            SettingError: if a setting cannot be.
        """
        from pikku._settings import effective, project_folder

        overrides = {"store": self.store, "log_format": log_format}
        try:
            app = self.load_app()
        except PikkuError:
            told = self._settings_without_app(overrides)
            if told is None:
                raise
            return told
        folder = project_folder(app.package, app._project)  # pyright: ignore[reportPrivateUsage]
        return effective(app._settings, overrides, folder)  # pyright: ignore[reportPrivateUsage]

    def _settings_without_app(
        self, overrides: dict[str, str | None]
    ) -> tuple[Config, dict[str, str]] | None:
        """The settings where the app's package is missing or broken; None if nothing tells them."""
        from pikku._settings import effective

        named = self.store or os.environ.get("PIKKU_STORE")
        try:
            project = find_project(Path.cwd())
        except SettingError:
            if not named:
                raise
            project = None
        if project is not None and self.named_app in (None, project.app_package):
            written = {
                "store": project.store,
                "queue_service": project.queue_service,
                "retention": project.retention,
                "log_format": project.log_format,
                "redact": project.redact,
            }
            baked = {key: value for key, value in written.items() if value}
            return effective(baked, overrides, project.folder)
        return effective({}, overrides, Path.cwd()) if named else None

    def make_store(self) -> Store:
        """The store in effect, not yet opened, for commands that never execute a run.

        Raises:
            ConfigurationError: if it can only be seen by the process that executes.
        """
        from pikku.stores import make_store

        config, _ = self.settings()
        store = make_store(config.store, base=config.project)
        if not store.shared:
            raise ConfigurationError(
                f"{config.store} can only be seen by the process that executes the runs",
                hint="keep them in a file: --store sqlite:///runs.db",
            )
        return store

    @asynccontextmanager
    async def reading(self, *, make: bool = False) -> AsyncGenerator[Store | None, None]:
        """The open store, without an engine; None where nothing has been stored yet, unless *make*
        has it made."""
        store = self.make_store()
        file = stored_file(store)
        if file is not None and not make and not file.exists():
            yield None
            return
        await store.open()
        try:
            yield store
        finally:
            await store.close()


def stored_file(store: Store) -> Path | None:
    """The file in which *store* keeps everything, for a store that has one."""
    path: object = getattr(store, "path", None)
    return path if isinstance(path, Path) else None


def find_project(start: Path) -> Project | None:
    """The nearest project at or above *start* whose pyproject.toml has a `[tool.pikku]` table.

    Raises:
        SettingError: if a pyproject.toml on the way cannot be read, or the table is malformed.
    """
    for folder in (start, *start.parents):
        file = folder / PYPROJECT
        if not file.is_file():
            continue
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise SettingError(f"{file} cannot be read: {error}", hint="") from error
        tool: object = document.get("tool")
        table: object = cast("dict[str, object]", tool).get("pikku") if _is_table(tool) else None
        if _is_table(table):
            return _project(folder, cast("dict[str, object]", table))
    return None


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _project(folder: Path, table: dict[str, object]) -> Project:
    def text(key: str) -> str | None:
        value = table.get(key)
        if value is None or _is_text(value):
            return cast("str | None", value) or None
        raise SettingError(f"{folder / PYPROJECT}: `{key}` must be a string, not {value!r}")

    source = table.get("source", [])
    if not isinstance(source, list) or not all(map(_is_text, cast("list[object]", source))):
        raise SettingError(f"{folder / PYPROJECT}: `source` must be a list of folders")
    return Project(
        folder,
        text("root"),
        text("package"),
        tuple(cast("list[str]", source)),
        text("output"),
        text("store"),
        text("queue_service"),
        _retention(folder, table.get("retention")),
        text("log_format"),
        _keys(folder, table.get("redact")),
    )


def _is_text(value: object) -> bool:
    """Whether it may be a setting: no name and no path holds a null byte."""
    return isinstance(value, str) and "\0" not in value


def _retention(folder: Path, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, dict):
        table = cast("dict[str, object]", value)
        if all(isinstance(each, str) for each in table.values()):
            return ",".join(f"{status}={duration}" for status, duration in table.items())
    raise SettingError(f"{folder / PYPROJECT}: `retention` must be a table of durations")


def _keys(folder: Path, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, list) and all(map(_is_text, cast("list[object]", value))):
        return ",".join(cast("list[str]", value)) or None
    raise SettingError(f"{folder / PYPROJECT}: `redact` must be a list of names of keys")


def _extend_import_path(project: Project | None) -> None:
    """Make the app importable where it lies, installed or not."""
    roots = project.import_roots if project is not None else [Path.cwd()]
    for root in reversed([str(each) for each in roots]):
        if root not in sys.path:
            sys.path.insert(0, root)


def _import_app(package: str, project: Project | None) -> App[Any]:
    from pikku._app import App

    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or package.split(".")[0] != error.name.split(".")[0]:
            raise ConfigurationError(
                f"the package {package!r} cannot be imported: {error}", hint=""
            ) from error
        raise AppNotFoundError(
            f"there is no package {package!r}", hint=_way_to(package, project)
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"the package {package!r} cannot be imported: {type(error).__name__}: {error}",
            hint="write it again: pikku-gen",
        ) from error
    if not isinstance(getattr(module, "app", None), App):
        raise AppNotFoundError(
            f"the package {package!r} has no app", hint=_way_to(package, project)
        )
    app: App[Any] = module.app
    return app


def _way_to(package: str, project: Project | None) -> str:
    expected = project.app_package if project is not None else None
    if expected == package:
        return "write it first: pikku-gen"
    known = {expected} if expected else set[str]()
    if package.isidentifier() and importlib.util.find_spec(f"{package}_pikku") is not None:
        known.add(f"{package}_pikku")
    return nearest(package, known) or AppNotFoundError.remedy
