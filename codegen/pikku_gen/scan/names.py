"""What a name of one file means in the generated package, through imports and aliases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pikku_gen.model.facts import SymbolsFact

PUBLIC: Final = frozenset(
    {
        "pikku_func",
        "pikku_workflow_func",
        "wire_workflow",
        "start_workflow",
        "get_run",
        "rpc",
        "workflows",
        "wire_middleware",
        "wire_signal",
        "send_signal",
        "signals",
        "queues",
        "wire_queue_worker",
        "wire_scheduler",
        "WorkflowContext",
    }
)
NEEDLES: Final = (
    "pikku_func",
    "pikku_workflow_func",
    "wire_middleware",
    "wire_queue_worker",
    "wire_scheduler",
    "wire_signal",
    "wire_workflow",
)
_INNER: Final = ("_context", "_workflows", "_rpc", "_signals", "_queues")

Follow = Callable[[str], str]
"""A dotted name to the dotted name of its definition, through the project's re-exports."""


@dataclass(slots=True)
class Names:
    """The names of one file, asked for their meaning."""

    module: str
    symbols: SymbolsFact
    package: str
    root: str
    follow: Follow
    foreign: dict[str, str] = field(default_factory=dict[str, str])
    _known: dict[str, str] = field(default_factory=dict[str, str])

    def meaning(self, name: str) -> str:
        """`pikku_func`, `rpc.charge`, …: the name below the generated package; or empty."""
        if not name:
            return ""
        if name not in self._known:
            self._known[name] = self._public(self.qualified(name))
        return self._known[name]

    def qualified(self, name: str, depth: int = 0) -> str:
        """The dotted name from its module on; empty for a name that is local or a builtin."""
        first, dot, rest = name.partition(".")
        binding = self.symbols.bindings.get(first)
        if binding is None:
            if self.package in self.symbols.stars and first in PUBLIC:
                return f"{self.package}.{name}"
            return ""
        if binding.kind == "import":
            base = f"{binding.module}.{binding.attribute}".strip(".")
            return f"{base}{dot}{rest}"
        if binding.kind == "alias" and depth < 8:
            base = self.qualified(binding.target, depth + 1)
            return f"{base}{dot}{rest}" if base else ""
        return ""

    def imports_package(self, symbols: SymbolsFact) -> bool:
        """True when the file imports something generated."""
        modules = {b.module for b in symbols.bindings.values() if b.kind == "import"}
        inside = f"{self.package}."
        return any(
            module == self.package or module.startswith(inside)
            for module in (*modules, *symbols.stars, *symbols.submodules)
        )

    def new_names(self, symbols: SymbolsFact) -> tuple[str, ...]:
        """Names of this file that are other words for the decorators.

        Capitalised names are types and not asked about: following each would cost too much.
        """
        return tuple(
            sorted(
                name
                for name, binding in symbols.bindings.items()
                if name not in NEEDLES
                and not name[0].isupper()
                and binding.kind in ("import", "alias")
                and self.meaning(name) in NEEDLES
            )
        )

    def _public(self, qualified: str) -> str:
        found = public_name(qualified, self.package)
        if found or not qualified.startswith(f"{self.root}."):
            return found
        followed = self.follow(qualified)
        self.foreign[qualified] = followed
        return public_name(followed, self.package)


def public_name(qualified: str, package: str) -> str:
    """The name below the generated package, by whichever of its modules it was reached."""
    if not qualified.startswith(f"{package}."):
        return ""
    name = qualified[len(package) + 1 :]
    for inner in _INNER:
        name = name.removeprefix(f"{inner}.")
    return name if name.partition(".")[0] in PUBLIC else ""
