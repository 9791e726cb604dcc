"""The generator from end to end: project → scan → link → rules → render → write."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from pikku_gen.cache import Cache, open_cache
from pikku_gen.config import PYPROJECT, read_settings
from pikku_gen.diagnostics import Diagnostic, diagnostic, has_errors, ordered
from pikku_gen.link.app import link
from pikku_gen.link.bodies import link_bodies
from pikku_gen.link.shapes import Shapes
from pikku_gen.model.app import App, BodyModel
from pikku_gen.model.facts import ScanFact
from pikku_gen.model.frozen import freeze, thaw
from pikku_gen.model.places import Place
from pikku_gen.project import Project, locate
from pikku_gen.reading import Reader, quiet
from pikku_gen.render.home import templates_dir
from pikku_gen.rules import judge
from pikku_gen.rules.allowed import settle
from pikku_gen.write import NO_CHANGES, Changes, apply, compare, refusals, short_diff

UNREAD: Final = frozenset({"PKG101", "PKG102", "PKG103"})
"""With a file unread, what others say of its names would be noise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found and did."""

    folder: Path
    diagnostics: tuple[Diagnostic, ...] = ()
    changes: Changes = NO_CHANGES
    diff: str = ""
    package: str = ""
    command: str = "pikku-gen"
    """What brings the output up to date."""
    files: tuple[str, ...] = ()
    wrote: bool = False
    misconfigured: bool = False
    outside: tuple[str, ...] = ()
    """The files beside the root package that were read, too."""

    @property
    def failed(self) -> bool:
        """True when nothing could be generated."""
        return has_errors(self.diagnostics)


def run(folder: Path, *, check: bool = False) -> Outcome:
    """Brings the generated package of the project in `folder` up to date; `check` only looks."""
    settings, problems = read_settings(folder)
    project, missing = (None, problems) if problems else locate(settings)
    if project is None:
        return Outcome(folder, ordered([*problems, *missing]), misconfigured=True)
    with quiet():
        cache = open_cache(folder, _cache_key(folder))
        reader = Reader(project, cache)
        settled = _settled(project, cache, reader)
        if settled is not None:
            cache.save()
            return replace(settled, outside=_outside(cache, reader))
        app, diagnostics = _understand(project, reader)
        outcome = Outcome(folder, diagnostics, package=project.shown(project.package_folder))
        if not outcome.failed:
            from pikku_gen.render.package import render_package

            outcome = emit(
                outcome, project, project.package_folder, render_package(app), check=check
            )
        _settle(cache, project, outcome)
        cache.save()
    return replace(outcome, outside=_outside(cache, reader))


def _outside(cache: Cache, reader: Reader) -> tuple[str, ...]:
    return tuple(sorted(cache.used - {file.path for file in reader.files}))


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sources of a project say now, whatever was generated of them."""

    diagnostics: tuple[Diagnostic, ...]
    manifest: Mapping[str, object]
    """As it would be written; nodes of its graphs, queues and schedules have a place,
    `module:line`."""
    paths: Mapping[str, str]
    """The file of each module that such a place may name."""

    @property
    def failed(self) -> bool:
        """True where something could not be read; other errors are no matter of the steps."""
        return not self.manifest or _unread(self.diagnostics)

    @property
    def workflows(self) -> list[str]:
        """The names of the workflows."""
        return [str(flow["name"]) for flow in self._flows]

    def workflow(self, name: str) -> Mapping[str, object] | None:
        """The entry of a workflow in the manifest."""
        return next((flow for flow in self._flows if flow["name"] == name), None)

    @property
    def _flows(self) -> Sequence[Mapping[str, object]]:
        return cast("Sequence[Mapping[str, object]]", self.manifest["workflows"])


@dataclass(frozen=True, slots=True)
class Understanding:
    """A project and what its sources declare, for whatever else is made of them."""

    project: Project
    reader: Reader
    app: App
    diagnostics: tuple[Diagnostic, ...]

    def located(self, paths: Iterable[str]) -> App | None:
        """The model with the positions in these files measured; None where they were already."""
        if not self.reader.locate(set(paths)):
            return None
        shapes = Shapes(self.reader.table, self.reader.path_of)
        return link(self.project, shapes, self.reader.scanned())[0]


def understand(folder: Path) -> Understanding | tuple[Diagnostic, ...]:
    """Reads the project in `folder` and writes nothing; or why there is none."""
    settings, problems = read_settings(folder)
    project, missing = (None, problems) if problems else locate(settings)
    if project is None:
        return ordered([*problems, *missing])
    reader = Reader(project, open_cache(folder, _cache_key(folder)))
    with quiet():
        app, diagnostics = _understand(project, reader)
    return Understanding(project, reader, app, diagnostics)


def read(folder: Path) -> Reading:
    """Reads the project in `folder` and writes nothing."""
    from pikku_gen.render.manifest import manifest_of

    found = understand(folder)
    if not isinstance(found, Understanding):
        return Reading(found, {}, {})
    reader, diagnostics = found.reader, found.diagnostics
    with quiet():
        reader.locate({source.path for source, fact in reader.scanned() if _has_places(fact)})
        scanned = reader.scanned()
        app, _ = link(found.project, Shapes(reader.table, reader.path_of), scanned, placed=True)
    paths = {source.module: source.path for source, _ in scanned}
    return Reading(diagnostics, manifest_of(app, (), placed=True), paths)


def _has_places(fact: ScanFact) -> bool:
    wired = fact.helpers or fact.queues or fact.schedules
    return bool(wired) or any(function.graph for function in fact.functions)


def _settled(project: Project, cache: Cache, reader: Reader) -> Outcome | None:
    """The outcome of the last run, where nothing moved since: neither a source nor the output."""
    known = cache.result
    if not known or not cache.holds(reader.files):
        return None
    files = cast("list[str]", known["files"])
    if _digest(project.package_folder, files) != known["digest"]:
        return None
    package = project.shown(project.package_folder)
    said = thaw(tuple[Diagnostic, ...], known["diagnostics"])
    return Outcome(project.folder, said, Changes(unchanged=len(files)), package=package)


def _settle(cache: Cache, project: Project, outcome: Outcome) -> None:
    """Remembers an outcome that a run without any change would repeat."""
    result: dict[str, object] = {}
    if not outcome.failed and (outcome.wrote or not outcome.changes.stale):
        files = outcome.files
        digest = _digest(project.package_folder, files)
        said = freeze(outcome.diagnostics)
        result = {"files": list(files), "digest": digest, "diagnostics": said}
    if result != cache.result:
        cache.result = result
        cache.dirty = True


def _digest(folder: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        try:
            data = (folder / name).read_bytes()
        except OSError:
            return ""
        digest.update(f"{name}:{len(data)};".encode() + data)
    return digest.hexdigest()


def _understand(project: Project, reader: Reader) -> tuple[App, tuple[Diagnostic, ...]]:
    """The model and everything there is to say about it, each at its measured place."""
    scanned = reader.scan()
    while True:
        shapes = Shapes(reader.table, reader.path_of)
        app, unresolved = link(project, shapes, scanned)
        said = [*reader.problems(), *unresolved]
        if not _unread(said):
            app = replace(app, conduct=_conduct(app, reader))
            judged = judge(app, shapes, admits_python_3_11=project.settings.admits_python_3_11)
            said = [*reader.problems(), *unresolved]
            if not _unread(said):  # nor was one met on the way
                said += judged
        unmeasured = {
            place.path for found in said for place in _places(found) if not place.span.located
        }
        if not reader.locate(unmeasured):
            allows = () if _unread(said) else reader.allows()
            return app, ordered(settle(said, allows, project.settings.lint))
        scanned = reader.scanned()


def _unread(said: Iterable[Diagnostic]) -> bool:
    """Whether a part of the project could not be read, so that what depends on it stays unsaid."""
    return any(found.code in UNREAD for found in said)


def _conduct(app: App, reader: Reader) -> tuple[BodyModel, ...]:
    for source, helper in app.helpers:
        if helper.steps:
            reader.bodies(source.module)  # a comment there may allow what is said of its steps
    declared = {rpc.function.key for rpc in app.rpcs} | {body.key for body in app.bodies}
    return link_bodies(reader.table, app.bodies, declared, reader.bodies, reader.path_of)


def emit(
    outcome: Outcome, project: Project, folder: Path, rendered: Mapping[str, str], *, check: bool
) -> Outcome:
    """Brings a folder up to date; `check` only looks."""
    changes = compare(folder, rendered)
    said = [*outcome.diagnostics, *refusals(folder, changes, project.shown)]
    diff = short_diff(folder, rendered, changes, outcome.package) if check else ""
    wrote = False
    if not check and changes.stale and not changes.foreign:
        try:
            apply(folder, rendered, changes)
            wrote = True
        except OSError as error:
            place = Place(project.shown(folder))
            said.append(diagnostic("PKG401", place, error.strerror or "no reason given"))
    return replace(
        outcome,
        diagnostics=ordered(said),
        changes=changes,
        diff=diff,
        files=tuple(rendered),
        wrote=wrote,
    )


def _places(found: Diagnostic) -> Iterator[Place]:
    yield found.place
    yield from found.related


def _cache_key(folder: Path) -> str:
    """Whatever facts depend on besides the files: the settings and the generator itself."""
    digest = hashlib.sha256((folder / PYPROJECT).read_bytes())
    for path in sorted([*Path(__file__).parent.rglob("*.py"), *templates_dir().rglob("*.jinja")]):
        stat = os.stat(path)
        digest.update(f"{path.name}:{stat.st_mtime_ns}:{stat.st_size};".encode())
    return digest.hexdigest()
