"""What a standalone client is made of: what is exposed, and copies of the types it needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pikku_gen.model.app import RpcModel, SignalModel, Symbol, WorkflowModel
from pikku_gen.model.places import Span


@dataclass(frozen=True, slots=True)
class CopiedModule:
    """The statements that are copied from one module, in the words of the client."""

    module: str
    path: str
    postponed: bool
    """Its annotations are not evaluated."""
    imports: tuple[str, ...]
    statements: tuple[str, ...]
    exported: tuple[tuple[str, Span], ...]
    """The names that users of the client may want, and where they stand in the source."""
    dropped: tuple[str, ...]
    """Methods and validators that were left out."""
    opaque: tuple[str, ...]
    """Types and fields that stand for anything."""


@dataclass(frozen=True, slots=True)
class ClientModel:
    """A client package, ready to be printed."""

    distribution: str
    package: str
    root: str
    """The root package of the application."""
    rpcs: tuple[RpcModel, ...]
    workflows: tuple[WorkflowModel, ...]
    signals: tuple[SignalModel, ...]
    rpc_strings: bool
    workflow_strings: bool
    modules: tuple[CopiedModule, ...]
    """Empty where the types are imported from the project's own package."""
    exported: tuple[Symbol, ...]
    """What users find in `<package>.types`, by the modules that define it."""
    version: str
    requirements: tuple[str, ...]
    requires_python: str

    @property
    def unambiguous(self) -> tuple[Symbol, ...]:
        """Those that `<package>.types` can have under their bare names."""
        names = Counter(symbol.name for symbol in self.exported)
        return tuple(symbol for symbol in self.exported if names[symbol.name] == 1)

    @property
    def class_name(self) -> str:
        """`ShopClient` of the package `shop_client`."""
        return "".join(part[:1].upper() + part[1:] for part in self.package.split("_"))
