"""The types that a client needs, from inputs and outputs on to whatever those are made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pikku_gen.diagnostics import Diagnostic, diagnostic
from pikku_gen.link.symbols import Resolved
from pikku_gen.model.app import FunctionModel, Symbol, TypeRef
from pikku_gen.model.client import CopiedModule
from pikku_gen.model.facts import Problem
from pikku_gen.model.places import Place, Span
from pikku_gen.reading import Reader
from pikku_gen.scan.copying import Copy, copy_statement
from pikku_gen.scan.toplevel import ModuleCode, parse_code

_PIKKU: Final = "pikku"


@dataclass(frozen=True, slots=True)
class Need:
    """A type of an exposed function, workflow or signal, and how to say whose it is."""

    ref: TypeRef
    place: Place
    words: str


def needs_of(function: FunctionModel, words: str) -> Iterator[Need]:
    """The input and the output of what is called `words`."""
    fact = function.fact
    yield Need(function.input, function.source.at(fact.input.span), f"the input of {words}")
    yield Need(function.output, function.source.at(fact.output.span), f"the result of {words}")


@dataclass(frozen=True, slots=True)
class Closure:
    """Copies of all types that are needed, or why there are none."""

    modules: tuple[CopiedModule, ...]
    outside: frozenset[str]
    """The modules of libraries that the copies import."""
    modern: bool
    """They need Python 3.12."""
    problems: tuple[Diagnostic, ...]


def copy_types(reader: Reader, needs: Iterable[Need], generated: str, package: str) -> Closure:
    """Everything that the needs lead to, as modules below `<package>.types`; `generated` is the
    package that pikku-gen writes for the server."""
    walk = _Walk(reader, generated, package)
    for need in needs:
        walk.start(need)
    walk.finish()
    homes = [home for _, home in sorted(walk.homes.items()) if home.copies]
    return Closure(
        tuple(home.copied() for home in homes),
        frozenset(walk.outside),
        any(home.modern for home in homes),
        tuple(walk.problems),
    )


@dataclass(slots=True)
class _Walk:
    """What was found so far, and what still has to be looked at."""

    reader: Reader
    generated: str
    package: str
    homes: dict[str, _Home] = field(default_factory=dict[str, "_Home"])
    outside: set[str] = field(default_factory=set[str])
    problems: list[Diagnostic] = field(default_factory=list[Diagnostic])
    pending: deque[tuple[Symbol, tuple[str, ...]]] = field(
        default_factory=deque[tuple[Symbol, tuple[str, ...]]]
    )

    def start(self, need: Need) -> None:
        for symbol in need.ref.symbols:
            if self.is_of_the_server(symbol.module):
                self.refuse("PKG607", need.place, str(symbol), (need.words,))
            elif self.reader.table.is_module(symbol.module):
                self.pending.append((symbol, (need.words,)))
            elif symbol.module:
                self.outside.add(symbol.module)

    def finish(self) -> None:
        """Copies what is pending, and what that leads to."""
        seen: set[Symbol] = set()
        while self.pending:
            symbol, chain = self.pending.popleft()
            if symbol not in seen:
                seen.add(symbol)
                home = self.home(symbol.module)
                if home is not None:
                    home.copy(symbol.name, chain)

    def home(self, module: str) -> _Home | None:
        if module not in self.homes:
            found = self.reader.source(module)
            if found is None:
                return None
            path, text = found
            code = parse_code(text)
            if isinstance(code, Problem):
                self.problems.append(diagnostic(code.code, Place(path, code.span), code.subject))
                return None
            self.homes[module] = _Home(self, module, path, code)
        return self.homes[module]

    def is_of_the_server(self, module: str) -> bool:
        return module.partition(".")[0] in (_PIKKU, "pikku_gen", self.generated)

    def refuse(self, code: str, place: Place, subject: str, chain: tuple[str, ...]) -> None:
        """A diagnostic that says which way led to its place."""
        found = diagnostic(code, place, subject)
        way = " → ".join(chain)
        self.problems.append(
            Diagnostic(found.place, found.code, f"{found.message} (needed by {way})", found.hint)
        )


@dataclass(slots=True)
class _Home:
    """A module that something is copied from: what its names mean, and how the copy writes them."""

    walk: _Walk
    module: str
    path: str
    code: ModuleCode
    copies: dict[str, Copy] = field(default_factory=dict[str, Copy])
    imports: dict[str, str] = field(default_factory=dict[str, str])
    """Import statements by the name that they bind."""
    chain: tuple[str, ...] = ()
    modern: bool = False

    def copy(self, name: str, chain: tuple[str, ...]) -> None:
        """Takes the statement of a name over."""
        kind = self.code.kind(name)
        place = Place(self.path, self.code.span(name)) if kind else Place(self.path, Span(1, 1))
        if kind not in ("class", "value"):
            code = "PKG604" if kind == "def" else "PKG606"
            self.walk.refuse(code, place, name, chain)
            return
        self.chain = chain
        self.modern |= self.code.is_modern(name)
        made = copy_statement(self.code, name, self)
        self.copies[name] = made
        for problem in made.problems:
            self.walk.refuse(
                problem.code,
                Place(self.path, problem.span),
                problem.subject,
                _longer(chain, problem.subject),
            )

    def copied(self) -> CopiedModule:
        """The module in its final words."""
        names = sorted(self.copies, key=self.code.order)
        exported = [
            (name, self.code.span(name))
            for name in names
            if not name.startswith("_") and self._is_a_type(name)
        ]
        return CopiedModule(
            module=self.module,
            path=self.path,
            postponed=self.code.postponed,
            imports=tuple(sorted({*self.imports.values()}, key=_import_order)),
            statements=tuple(self.copies[name].code for name in names),
            exported=tuple(exported),
            dropped=tuple(each for name in names for each in self.copies[name].dropped),
            opaque=tuple(each for name in names for each in self.copies[name].opaque),
        )

    # --- what names of the module mean, for `copy_statement`

    def spelled(self, name: str, span: Span, where: str, *, quoted: bool) -> str:
        chain = _longer(self.chain, where)
        found = self._resolved(name)
        place = Place(self.path, span)
        if found is None:
            self._unbound(name, place, chain, quoted=quoted)
            return name
        symbol = found.symbol
        if not symbol.module:
            return name
        if self.walk.is_of_the_server(symbol.module):
            self.walk.refuse("PKG607", place, str(symbol), chain)
            return name
        if not self.walk.reader.table.is_module(symbol.module):
            return self._import_outside(name, found)
        home = self.walk.home(symbol.module)
        if home is not None and home.code.kind(symbol.name) == "def":
            self.walk.refuse("PKG604", place, name, chain)
            return name
        self.walk.pending.append((symbol, chain))
        return self._import_copy(name, found)

    def qualified(self, name: str) -> str:
        found = self._resolved(name) if name else None
        return found.dotted if found else ""

    def is_copyable(self, name: str) -> bool:
        found = self._resolved(name)
        if found is None or self.walk.is_of_the_server(found.symbol.module):
            return False
        if not found.symbol.module or not self.walk.reader.table.is_module(found.symbol.module):
            return True
        home = self.walk.home(found.symbol.module)
        return home is not None and home.code.kind(found.symbol.name) in ("class", "value")

    def anything(self) -> str:
        return self._typing("Any")

    def alias(self) -> str:
        return self._typing("TypeAlias")

    # ---

    def _typing(self, name: str) -> str:
        free = self.qualified(name) in ("", f"typing.{name}")
        local = name if free else f"_{name}"
        self.imports[local] = f"from typing import {name}" + ("" if free else f" as {local}")
        return local

    def _resolved(self, name: str) -> Resolved | None:
        return self.walk.reader.table.resolve(self.module, name)

    def _unbound(self, name: str, place: Place, chain: tuple[str, ...], *, quoted: bool) -> None:
        symbols = self.walk.reader.table.symbols(self.module)
        stars = symbols.stars if symbols else ()
        unknown = [star for star in stars if not self.walk.reader.table.is_module(star)]
        if unknown:
            self.walk.refuse("PKG603", place, f"from {unknown[0]} import *", chain)
        elif not quoted:
            self.walk.refuse("PKG202", place, name, chain)

    def _import_outside(self, name: str, found: Resolved) -> str:
        """Imports from a library what the module has from there."""
        first = name.partition(".")[0]
        symbols = self.walk.reader.table.symbols(self.module)
        binding = symbols.bindings.get(first) if symbols else None
        self.walk.outside.add(found.symbol.module)
        condition = self.code.imported(first)
        if condition:
            self.imports[first] = condition
            for word, other in symbols.bindings.items() if symbols else ():
                if other.kind == "import" and not other.attribute and f" {word}." in condition:
                    self.imports[word] = f"import {other.module}{_renamed(other.module, word)}"
        elif symbols is None or binding is None or self.walk.reader.table.is_module(binding.module):
            return self._import_symbol(name, found, found.symbol.module)
        elif binding.attribute:
            line = f"from {binding.module} import {binding.attribute}"
            self.imports[first] = line + _renamed(binding.attribute, first)
        else:
            self.imports[first] = f"import {binding.module}{_renamed(binding.module, first)}"
            for deeper in symbols.submodules:
                if f"{name}.".startswith(f"{deeper}."):
                    self.imports[deeper] = f"import {deeper}"
        return name

    def _import_copy(self, name: str, found: Resolved) -> str:
        """The spelling of a name whose definition is copied, too."""
        symbol = found.symbol
        if symbol.module == self.module:
            return f"{symbol.name}.{found.rest}" if found.rest else symbol.name
        return self._import_symbol(name, found, f"{self.walk.package}.types.{symbol.module}")

    def _import_symbol(self, name: str, found: Resolved, source: str) -> str:
        symbol = found.symbol
        for local in (self._free(name, symbol), _long_name(symbol)):
            line = f"from {source} import {symbol.name}{_renamed(symbol.name, local)}"
            if self.imports.setdefault(local, line) == line:
                break
        return f"{local}.{found.rest}" if found.rest else local

    def _free(self, name: str, symbol: Symbol) -> str:
        """The module's own word for another one's name, or one that means nothing else in it."""
        first = name.partition(".")[0]
        if self._means(first) == symbol:
            return first
        if self._means(symbol.name) in (None, symbol):
            return symbol.name
        return _long_name(symbol)

    def _means(self, name: str) -> Symbol | None:
        found = self._resolved(name)
        return found.symbol if found is not None and not found.rest else None

    def _is_a_type(self, name: str) -> bool:
        binding = self.walk.reader.table.binding(Symbol(self.module, name))
        return binding is not None and binding.kind != "typevar"


def _longer(chain: tuple[str, ...], where: str) -> tuple[str, ...]:
    return chain if chain and chain[-1] == where else (*chain, where)


def _long_name(symbol: Symbol) -> str:
    return f"{symbol.name}_from_{symbol.module}".replace(".", "_")


def _renamed(name: str, local: str) -> str:
    return "" if name == local else f" as {local}"


def _import_order(line: str) -> tuple[bool, str]:
    """Plain imports first: what stands under a condition may need them."""
    return not line.startswith(("import ", "from ")), line
