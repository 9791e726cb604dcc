"""The attribute under which a name is reached."""

from __future__ import annotations

import keyword
import re
from typing import Final

RESERVED: Final = frozenset(
    {
        # members of the generated classes
        "names",
        "invoke",
        "start_workflow",
        "get_run",
        "_caller",
        # names that their signatures are written with
        "Any",
        "Awaitable",
        "BoundRpc",
        "BoundWorkflow",
        "Callable",
        "ClassVar",
        "Duration",
        "Literal",
        "Never",
        "RpcRef",
        "Run",
        "Sequence",
        "Signal",
        "SyncBoundWorkflow",
        "bool",
        "overload",
        "str",
    }
)


QUEUES: Final = frozenset({"add", "int", "BoundQueue", "Job", "SyncBoundQueue", "SyncJob"})
"""What a queue's attribute may not be, besides."""


def attribute_for(name: str, *, taken: frozenset[str] = frozenset()) -> str:
    """The name itself where it is an identifier that is free; else the nearest one that is."""
    attribute = name if name.isidentifier() else re.sub(r"\W", "_", name)
    if not attribute.isidentifier():
        attribute = f"_{attribute}"
    reserved = attribute in RESERVED or attribute in taken
    if keyword.iskeyword(attribute) or reserved or attribute.startswith("__"):
        attribute = f"{attribute}_" if not attribute.startswith("__") else f"x{attribute}"
    return attribute
