"""The two states that are compared: a manifest, a generated package, a project, a git revision."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final, cast

from pikku_gen.config import PYPROJECT
from pikku_gen.diagnostics import Diagnostic
from pikku_gen.pipeline import read
from pikku_gen.project import MANIFEST

_NEEDED: Final = ("functions", "signals", "workflows")
_WORKING_TREE: Final = "the working tree"


class SideError(Exception):
    """A state that cannot be read: why, and what the generator says of it."""

    def __init__(self, message: str, diagnostics: tuple[Diagnostic, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.diagnostics = diagnostics


@dataclass(frozen=True, slots=True)
class Side:
    """One state of a project."""

    name: str
    manifest: Mapping[str, Any]  # JSON
    paths: Mapping[str, str] = field(default_factory=dict[str, str])
    """The file of each module of its sources."""

    def place(self, at: str) -> str:
        """A place of its graphs, as `path:line`."""
        module, _, line = at.rpartition(":")
        return f"{self.paths.get(module, module)}:{line}" if at else ""


def side_of(named: str | None, folder: Path) -> Side:
    """The state that was named; None is the project in `folder` as it is now.

    Raises:
        SideError: it cannot be read.
    """
    if named is None:
        return _project(folder, _WORKING_TREE)
    path = Path(named)
    if path.is_file():
        return _manifest(path, named)
    if (path / MANIFEST).is_file():
        return _manifest(path / MANIFEST, named)
    if (path / PYPROJECT).is_file():
        return _project(path.resolve(), named)
    return _revision(named, folder)


def _project(folder: Path, name: str) -> Side:
    reading = read(folder)
    if reading.failed:
        raise SideError(f"{name} cannot be read; run pikku-gen", reading.diagnostics)
    return Side(name, cast("Mapping[str, Any]", reading.manifest), reading.paths)


def _manifest(path: Path, name: str) -> Side:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SideError(f"{name} cannot be read: {error}") from error
    if not isinstance(document, dict) or not all(
        isinstance(cast("dict[str, object]", document).get(key), list) for key in _NEEDED
    ):
        raise SideError(f"{name} is no manifest of a generated package")
    return Side(name, cast("dict[str, Any]", document))


def _revision(name: str, folder: Path) -> Side:
    found = _git(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
    )
    if found is None:
        raise SideError(f"{name} is no manifest, no generated package, and no revision of git here")
    archive = _git(folder, "archive", "--format=tar", found.decode().strip())
    if archive is None:
        raise SideError(f"git cannot tell what this folder was at {name}")
    with tempfile.TemporaryDirectory(prefix="pikku-gen-") as temporary:
        there = Path(temporary).resolve()
        try:
            with tarfile.open(fileobj=BytesIO(archive)) as packed:
                packed.extractall(there, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise SideError(f"{name} cannot be unpacked: {error}") from error
        return _project(there, name)


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints; None where it fails, or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
