"""The files of a project as facts: cached, prefiltered by their bytes, parsed only when needed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pikku_gen.cache import Cache, Entry, bodies_of, frozen, scan_of, symbols_of
from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import Source
from pikku_gen.model.facts import (
    TOO_DEEP,
    AllowFact,
    BodiesFact,
    Problem,
    ScanFact,
    SymbolsFact,
)
from pikku_gen.model.places import Place
from pikku_gen.project import Project, SourceFile
from pikku_gen.scan.names import NEEDLES, Names

if TYPE_CHECKING:
    import ast

_NOTHING: Final = SymbolsFact({}, (), (), {}, {})


class Reader:
    """The facts of one project's files, each read at most once."""

    def __init__(self, project: Project, cache: Cache) -> None:
        self.files = project.files()
        self.table = SymbolTable(self.symbols, self._is_folder)
        self._project = project
        self._cache = cache
        self._by_module = {file.module: file for file in reversed(self.files)}
        self._outside: dict[str, SourceFile | None] = {}
        self._texts: dict[str, str | Problem] = {}
        self._symbols: dict[str, SymbolsFact | None] = {}
        self._facts: dict[str, ScanFact] = {}
        self._bodies: dict[str, BodiesFact] = {}
        self._tree: tuple[str, ast.Module] | None = None
        """The syntax tree that was read last, by its path."""
        self._problems: list[Diagnostic] = []

    def scan(self) -> list[tuple[Source, ScanFact]]:
        """The facts of every file that declares or uses something, in the order of their paths."""
        needles = self._cache.needles or self._words(())
        pending = self.files
        while pending:
            passed = [file for file in pending if self._passes(file, needles)]
            for file in passed:
                self._scan(file)
            found = self._words(alias for fact in self._facts.values() for alias in fact.aliases)
            grown = set(found) - set(needles)
            left = {file.path for file in pending} - {file.path for file in passed}
            pending = [file for file in pending if file.path in left] if grown else []
            needles = found
        if needles != self._cache.needles:
            self._cache.needles = needles
            self._cache.dirty = True
        return self.scanned()

    def scanned(self) -> list[tuple[Source, ScanFact]]:
        """The facts read so far."""
        return [
            (Source(file.module, file.path), self._facts[file.path])
            for file in self.files
            if file.path in self._facts
        ]

    def locate(self, paths: set[str]) -> bool:
        """Measures positions in the files of these paths; False when there was nothing to do."""
        pending = [
            file
            for file in self.files
            if file.path in paths
            and file.path in self._facts
            and not self._facts[file.path].located
        ]
        for file in pending:
            self._scan(file, located=True)
        return bool(pending)

    def problems(self) -> tuple[Diagnostic, ...]:
        """What could not be read."""
        return tuple(self._problems)

    def symbols(self, module: str) -> SymbolsFact | None:
        """What a module of the project binds; None for a module that is not the project's."""
        if module not in self._symbols:
            self._symbols[module] = None
            file = self._file(module)
            if file is not None:
                self._symbols[module] = self._read_symbols(file)
        return self._symbols[module]

    def path_of(self, module: str) -> str:
        """The path of a module of the project."""
        file = self._file(module)
        return file.path if file else module

    def source(self, module: str) -> tuple[str, str] | None:
        """The path and the text of a module of the project."""
        file = self._file(module)
        text = self._text(file) if file is not None else None
        return (file.path, text) if file is not None and text is not None else None

    def bodies(self, module: str) -> BodiesFact | None:
        """What the functions of a module of the project do."""
        file = self._file(module)
        if file is None:
            return None
        if file.path not in self._bodies:
            self._read_bodies(file, None)
        return self._bodies.get(file.path)

    def allows(self) -> Iterator[tuple[str, AllowFact]]:
        """The comments that allow something, in files whose bodies were asked for."""
        for path, fact in self._bodies.items():
            for allow in fact.allows:
                yield path, allow

    # ---

    def _words(self, aliases: Iterator[str] | tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({*NEEDLES, self._project.package, *aliases}))

    def _is_folder(self, module: str) -> bool:
        return not self._is_generated(module) and self._project.is_folder(module)

    def _is_generated(self, module: str) -> bool:
        return module.partition(".")[0] == self._project.package

    def _file(self, module: str) -> SourceFile | None:
        known = self._by_module.get(module)
        if known is not None:
            return None if known.problem else known
        if module not in self._outside:
            inside = module.partition(".")[0] == self._project.root
            missing = self._is_generated(module) or inside or not module
            self._outside[module] = None if missing else self._project.find(module)
        return self._outside[module]

    def _passes(self, file: SourceFile, needles: tuple[str, ...]) -> bool:
        if file.problem:
            self._report("PKG101", file, file.problem)
            return False
        entry = self._cache.entry(file)
        if entry is not None and (entry.passed or needles == self._cache.needles):
            return entry.passed
        try:
            with open(file.file, "rb") as handle:
                data = handle.read()
        except OSError as error:
            self._report("PKG101", file, error.strerror or "unreadable")
            return False
        passed = any(needle.encode() in data for needle in needles)
        entry = self._cache.renew(file, data, passed=passed)
        if passed and entry.scan is None:
            self._decode(file, data)
        return passed

    def _scan(self, file: SourceFile, *, located: bool = False) -> None:
        entry = self._entry(file)
        if entry is None:
            return
        known = scan_of(entry)
        if known is not None and self._holds(known) and (known.located or not located):
            self._add(file, known)
            return
        text = self._text(file)
        symbols = self.symbols(file.module)
        if text is None or symbols is None:
            return
        from pikku_gen.scan.declarations import scan_module

        tree = self._tree[1] if self._tree is not None and self._tree[0] == file.path else None
        project = self._project
        names = Names(file.module, symbols, project.package, project.root, self.table.follow)
        try:
            fact = scan_module(text, symbols, names, located=located)
        except RecursionError:
            fact = ScanFact(problems=(TOO_DEEP,), located=True)
        self._add(file, fact)
        entry.scan = frozen(fact)
        self._cache.dirty = True
        if file.path not in self._bodies and any(f.kind == "workflow" for f in fact.functions):
            self._read_bodies(file, tree)

    def _read_bodies(self, file: SourceFile, tree: ast.Module | None) -> None:
        entry = self._entry(file)
        if entry is None:
            return
        known = bodies_of(entry)
        if known is None:
            text = self._text(file)
            if text is None:
                return
            from pikku_gen.scan.bodies import read_bodies
            from pikku_gen.scan.symbols import parse

            found = tree or parse(text)
            if isinstance(found, Problem):
                return
            try:
                known = read_bodies(found, text, file.module, is_package=file.is_package)
            except RecursionError:
                self._note(file, TOO_DEEP)
                return
            entry.bodies = frozen(known)
            self._cache.dirty = True
        self._bodies[file.path] = known

    def _add(self, file: SourceFile, fact: ScanFact) -> None:
        if not file.importable and fact.declares:
            name = next(part for part in file.module.split(".") if not part.isidentifier())
            self._report("PKG104", file, name)
            return
        self._facts[file.path] = fact

    def _holds(self, fact: ScanFact) -> bool:
        """Cached facts hold while the names of other modules still mean the same."""
        return all(
            self.table.follow(name) == meaning for name, meaning in (fact.foreign or {}).items()
        )

    def _read_symbols(self, file: SourceFile) -> SymbolsFact | None:
        entry = self._entry(file)
        if entry is None:
            return None
        known = symbols_of(entry)
        if known is not None:
            return known
        text = self._text(file)
        if text is None:
            return None
        from pikku_gen.scan.symbols import parse, symbols_of_tree

        tree = parse(text)
        if isinstance(tree, Problem):
            self._note(file, tree)
            return None
        self._tree = (file.path, tree)
        try:
            found = symbols_of_tree(tree, file.module, is_package=file.is_package)
        except RecursionError:
            self._note(file, TOO_DEEP)
            return None
        entry.symbols = frozen(found)
        self._cache.dirty = True
        return found

    def _entry(self, file: SourceFile) -> Entry | None:
        entry = self._cache.entry(file)
        if entry is not None:
            return entry
        data = self._bytes(file)
        return self._cache.renew(file, data) if data is not None else None

    def _text(self, file: SourceFile) -> str | None:
        if file.path not in self._texts:
            data = self._bytes(file)
            if data is None:
                return None
            self._decode(file, data)
        text = self._texts[file.path]
        if isinstance(text, Problem):
            self._note(file, text)
            return None
        return text

    def _decode(self, file: SourceFile, data: bytes) -> None:
        from pikku_gen.scan.text import decode

        self._texts[file.path] = decode(data)

    def _bytes(self, file: SourceFile) -> bytes | None:
        try:
            with open(file.file, "rb") as handle:
                return handle.read()
        except OSError as error:
            self._report("PKG101", file, error.strerror or "unreadable")
            return None

    def _note(self, file: SourceFile, problem: Problem) -> None:
        place = Place(file.path, problem.span)
        self._problems.append(diagnostic(problem.code, place, problem.subject, hint=problem.hint))

    def _report(self, code: str, file: SourceFile, subject: str) -> None:
        self._problems.append(diagnostic(code, Place(file.path), subject))


@contextmanager
def quiet() -> Generator[None, None, None]:
    """No warnings about the user's code, and no garbage collection while trees are built."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if enabled:
            gc.enable()
