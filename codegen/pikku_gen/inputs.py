"""What a run depends on: the files it reads, by their stat, and the folders where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pikku_gen.config import PYPROJECT, Settings, read_settings
from pikku_gen.project import folders_below, locate, neighbours, shown_path

Stamps = Mapping[str, tuple[int, int]]
"""mtime in ns and size by path, as diagnostics print it."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The state of everything that a run reads."""

    own: Stamps
    """The settings and the root package; of the packages beside it, that they are there."""
    beside: Stamps
    """What was, or could be, read beside the root package."""
    folders: tuple[str, ...]
    """Where a file that matters may change, appear or go."""

    def since(self, before: Inputs) -> tuple[str, ...]:
        """What happened to which file, in the order of their paths; of other settings only that
        they are others, for then other files are looked at."""
        happened = dict(_events(before.beside, self.beside))
        happened |= _events(before.own, self.own)
        if PYPROJECT in happened:
            happened = {PYPROJECT: happened[PYPROJECT]}
        return tuple(f"{path} {what}" for path, what in sorted(happened.items()))

    def looking_at(self, later: Inputs) -> Inputs:
        """This state, seen as widely as *later*: what only that looks at counts as it is there."""
        beside = {path: self.beside.get(path, stamp) for path, stamp in later.beside.items()}
        return Inputs(self.own, beside, later.folders)


def look(folder: Path, outside: Sequence[str] = (), *, widely: bool = False) -> Inputs:
    """The inputs of the project in `folder` now: `outside` are files that it read beside its root
    package; `widely` also looks at every other module that it could come to read."""
    settings, problems = read_settings(folder)
    try:
        project = None if problems else locate(settings)[0]
    except OSError:  # something that was there a moment ago
        project = None
    sources = list(project.sources if project else _named(settings))
    package = project.package if project else settings.package
    near = sorted({path for source in sources for path in neighbours(source, package)})
    seen = [os.fspath(folder), *map(_standing, sources)]
    roots = [os.path.join(source, project.root) for source in sources] if project else []
    seen += [here for root in roots for here in folders_below(root)]
    modules: list[str] = []
    if widely:
        below = [here for path in near for here in folders_below(path)]
        seen += below
        modules = [each for here in [*below, *map(os.fspath, sources)] for each in _modules(here)]
    beside = [*(os.fspath(folder / path) for path in outside), *modules]
    own = {file.path: file.stamp for file in project.files()} if project else {}
    present = [path for each in near if os.path.isfile(path := os.path.join(each, "__init__.py"))]
    return Inputs(
        {
            **{shown_path(folder, path): (0, 0) for path in present},
            **_stamps(folder, [os.fspath(folder / PYPROJECT)]),
            **own,
        },
        _stamps(folder, beside),
        tuple(sorted({*filter(os.path.isdir, [*seen, *map(os.path.dirname, beside)])})),
    )


def _events(before: Stamps, now: Stamps) -> Iterator[tuple[str, str]]:
    for path in {*before, *now}:
        if path not in before:
            yield path, "added"
        elif path not in now:
            yield path, "removed"
        elif before[path] != now[path]:
            yield path, "changed"


def _named(settings: Settings) -> Iterator[Path]:
    """The source folders of a project that is not whole."""
    folder = settings.folder
    if settings.source:
        yield from (folder / PurePosixPath(each) for each in settings.source)
    else:
        yield from (each for each in (folder, folder / "src") if each.is_dir())


def _standing(folder: Path) -> str:
    """The folder, or as much of the way to it as there is."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return os.fspath(folder)


def _modules(folder: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(folder) if entry.name.endswith(".py")]
    except OSError:
        return []


def _stamps(folder: Path, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            continue
        found[shown_path(folder, path)] = (stat.st_mtime_ns, stat.st_size)
    return found
