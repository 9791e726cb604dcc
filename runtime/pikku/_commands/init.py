"""`pikku init`: a new project that generates, type-checks and runs."""

from __future__ import annotations

import keyword
import subprocess
import sys
from pathlib import Path

import click

from pikku._commands.output import put, tell
from pikku._commands.templates import project_files, write_project
from pikku.errors import SettingError

_TAKEN = frozenset({"pikku", "pikku_gen", "test", "tests"})


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--name", help="The name of the app's package; default: the name of the folder.")
@click.pass_context
def init(context: click.Context, folder: Path, name: str | None) -> None:
    """Make a new project in DIR (default: the current folder). Overwrites nothing."""
    name = checked_name(name or folder.resolve().name.replace("-", "_").lower())
    files = project_files("init", name)
    _refuse_to_overwrite(folder, name, files)
    try:
        write_project(files, folder)
    except OSError as error:
        raise SettingError(
            f"{error.filename or folder} cannot be written: {error.strerror}", hint=""
        ) from error
    put(f"{folder}: {len(files)} files")
    for path in files:
        put(f"  {path}")
    code = subprocess.run([sys.executable, "-m", "pikku_gen"], cwd=folder, check=False).returncode
    if code:
        tell("the project is written, and pikku-gen could not make its package")
        context.exit(code)
    put()
    put("Next:")
    if folder.resolve() != Path.cwd():
        put(f"  cd {folder}")
    example = '{"name": "Ada", "email": "ada@example.com"}'
    put(f"  pikku runs start welcome --input '{example}' --wait")
    put(f"  python -m {name}.main")
    put("  pip install mypy pytest pytest-asyncio && mypy && pytest")


def checked_name(name: str) -> str:
    """*name*, if a package can be called so.

    Raises:
        SettingError: with the reason, if not.
    """
    reason = None
    if not name.isidentifier() or not name.isascii():
        reason = "it is no Python identifier"
    elif keyword.iskeyword(name) or keyword.issoftkeyword(name):
        reason = "Python keeps this word for itself"
    elif name in sys.stdlib_module_names:
        reason = "a module of Python's standard library is called so"
    elif name in _TAKEN or name.startswith("_"):
        reason = "this name is taken"
    if reason is not None:
        raise SettingError(
            f"a project cannot be called {name!r}: {reason}",
            hint="choose another: pikku init DIR --name my_shop",
        )
    return name


def _refuse_to_overwrite(folder: Path, name: str, files: dict[str, str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} exists and is no folder", hint="choose another folder")
    taken = [path for path in (*files, f"{name}_pikku") if (folder / path).exists()]
    if taken:
        listed = ", ".join(taken[:5]) + (", …" if len(taken) > 5 else "")
        raise SettingError(
            f"{folder} already holds {listed}; nothing was written",
            hint="choose an empty folder: pikku init DIR",
        )
