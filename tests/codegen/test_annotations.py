"""Annotations are copied as written, and each name in them is followed to its definition."""

from __future__ import annotations

from textwrap import dedent

import pytest

from pikku_gen.link.annotations import resolve_annotation
from pikku_gen.link.symbols import SymbolTable
from pikku_gen.model.app import Source
from pikku_gen.model.facts import AnnotationFact, SymbolsFact
from pikku_gen.model.places import Span
from pikku_gen.scan.symbols import read_symbols

MODULES = {
    "shop": "",
    "shop.types": """
        from shop.money import Amount as Amount
        from shop.star import *
        from . import people
        class Order:
            class Line: ...
        type Alias = Order | None
    """,
    "shop.money": "class Amount: ...",
    "shop.star": "class Starred: ...\nclass _Hidden: ...",
    "shop.people": "from shop.types import Order\nclass Person: ...",
    "shop.circular": "from shop.circular2 import Nothing",
    "shop.circular2": "from shop.circular import Nothing",
    "shop.app": """
        from __future__ import annotations
        import datetime as dt
        import collections.abc
        import typing as t
        from typing import Annotated, Literal, TYPE_CHECKING
        import shop.types
        import shop.types as types
        from shop import types as again
        from shop.types import Alias, Amount, Order as O, Starred
        from shop.circular import Nothing
        from elsewhere import Foreign
        if TYPE_CHECKING:
            from shop.people import Person
        try:
            from fast import Speed
        except ImportError:
            Speed = None
        class Local: ...
    """,
}


def table() -> SymbolTable:
    known: dict[str, SymbolsFact] = {}
    for module, text in MODULES.items():
        found = read_symbols(dedent(text), module, is_package=module == "shop")
        assert isinstance(found, SymbolsFact)
        known[module] = found
    return SymbolTable(known.get, lambda module: module in MODULES)


def resolved(text: str) -> tuple[str, list[str], list[str]]:
    source = Source("shop.app", "shop/app.py")
    fact = AnnotationFact(text, Span(1, 1, len(text)))
    ref, problems = resolve_annotation(table(), source, fact)
    modules = [str(symbol) for symbol in ref.symbols if symbol.module]
    return ref.text, modules, [found.message for found in problems]


@pytest.mark.parametrize(
    ("written", "text", "names"),
    [
        ("int", "int", []),
        ("None", "None", []),
        ("list[O]", "list[Order]", ["shop.types.Order"]),
        ("'O | None'", "Order | None", ["shop.types.Order"]),
        ("list['O']", "list[Order]", ["shop.types.Order"]),
        ("dt.datetime", "datetime", ["datetime.datetime"]),
        ("t.Optional[O]", "Optional[Order]", ["typing.Optional", "shop.types.Order"]),
        ("collections.abc.Sequence[int]", "Sequence[int]", ["collections.abc.Sequence"]),
        ("Amount", "Amount", ["shop.money.Amount"]),
        ("Starred", "Starred", ["shop.star.Starred"]),
        ("shop.types.Order", "Order", ["shop.types.Order"]),
        ("types.people.Person", "Person", ["shop.people.Person"]),
        ("again.Order.Line", "Order.Line", ["shop.types.Order"]),
        ("Alias", "Alias", ["shop.types.Alias"]),
        ("Person", "Person", ["shop.people.Person"]),
        ("Foreign[O]", "Foreign[Order]", ["elsewhere.Foreign", "shop.types.Order"]),
        ("Speed", "Speed", ["fast.Speed"]),
        ("Literal['O', \"b\"]", "Literal['O', \"b\"]", ["typing.Literal"]),
        (
            "Annotated['O', 'words', dt.timedelta(days=1)]",
            "Annotated[Order, 'words', timedelta(days=1)]",
            ["typing.Annotated", "shop.types.Order", "datetime.timedelta"],
        ),
        ("dict[\n    str,\n    O,  # why\n]", "dict[str, Order]", ["shop.types.Order"]),
        ("dict[str, 'größe' ] | Local", "dict[str, größe ] | Local", ["shop.app.Local"]),
    ],
)
def test_a_name_is_followed_to_the_module_that_defines_it(
    written: str, text: str, names: list[str]
) -> None:
    found, modules, problems = resolved(written)

    if "größe" in written:
        assert problems == ["`größe` leads to no type here"]
    else:
        assert (found, problems) == (text, [])
    assert modules == names


@pytest.mark.parametrize(
    "written", ["Ordr", "types.Ordr", "Nothing", "t.cast[Ordr]", "_Hidden.x", "list['Ordr']"]
)
def test_a_name_that_leads_nowhere_is_said_and_never_any(written: str) -> None:
    _, _, problems = resolved(written)

    assert len(problems) == 1
    assert problems[0].endswith("leads to no type here")
