"""Statements are copied with all that values are made of, and nothing that only the server does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pikku_gen.client.closure import Closure, copy_types, needs_of
from pikku_gen.pipeline import Understanding, understand

FUNCTION = """\
from shop.types import It
from shop_pikku import Context, pikku_func


@pikku_func(expose=True)
async def take(ctx: Context, it: It) -> None: ...
"""


def copied(folder: Path, **files: str) -> Closure:
    """What becomes of the type `It` of the module `shop.types`."""
    (folder / "shop").mkdir()
    (folder / "pyproject.toml").write_text('[tool.pikku]\nroot = "shop"\n', encoding="utf-8")
    for name, text in {"__init__": "", "functions": FUNCTION, **files}.items():
        (folder / "shop" / f"{name}.py").write_text(text, encoding="utf-8")
    found = understand(folder)
    assert isinstance(found, Understanding)
    (rpc,) = found.app.rpcs
    needs = needs_of(rpc.function, "`take`")
    return copy_types(found.reader, needs, "shop_pikku", "shop_client")


def statements(closure: Closure, module: str = "shop.types") -> str:
    assert closure.problems == ()
    (found,) = (each for each in closure.modules if each.module == module)
    return "\n".join([*found.imports, "", *found.statements])


def test_the_newer_forms_of_aliases_and_generics_stay_as_they_are(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "from shop.base import Part\n"
            "type Names[T] = dict[str, T]\n"
            "type It = list[Box[Part]] | Names[Part]\n"
            "class Box[T: Part]:\n    inner: T\n    names: Names[T]\n"
        ),
        base="class Part:\n    size: int\n",
    )

    assert closure.modern
    assert statements(closure) == (
        "from shop_client.types.shop.base import Part\n\n"
        "type Names[T] = dict[str, T]\n"
        "type It = list[Box[Part]] | Names[Part]\n"
        "class Box[T: Part]:\n    inner: T\n    names: Names[T]"
    )


@pytest.mark.parametrize(
    ("imported", "written", "line", "copy"),
    [
        ("from shop.base import Part", "Part", "import Part", "Part"),
        ("from shop.base import Part as P", "P", "import Part as P", "P"),
        ("from shop import base", "base.Part", "import Part", "Part"),
        ("import shop.base", "shop.base.Part", "import Part", "Part"),
        ("import shop.base as b", "b.Part", "import Part", "Part"),
        ("from .base import Part", "Part", "import Part", "Part"),
        ("from shop.base import *", "Part", "import Part", "Part"),
        ("from shop.base import Part", '"Part"', "import Part", '"Part"'),
        ("from shop import base", '"base.Part"', "import Part", '"Part"'),
        (
            "from shop import base\nclass Part: ...",
            "base.Part",
            "import Part as Part_from_shop_base",
            "Part_from_shop_base",
        ),
    ],
)
def test_a_type_is_found_however_it_is_imported(
    imported: str, written: str, line: str, copy: str, tmp_path: Path
) -> None:
    closure = copied(
        tmp_path,
        types=f"{imported}\nclass It:\n    part: list[{written}]\n",
        base="class Part:\n    size: int\n",
    )

    assert statements(closure) == (
        f"from shop_client.types.shop.base {line}\n\nclass It:\n    part: list[{copy}]"
    )


def test_types_of_one_name_are_told_apart(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "from shop import a, b\n"
            "class It:\n    one: a.Part\n    two: b.Part\n    again: a.Part\n"
        ),
        a="class Part:\n    size: int\n",
        b="class Part:\n    name: str\n",
    )

    assert statements(closure) == (
        "from shop_client.types.shop.a import Part\n"
        "from shop_client.types.shop.b import Part as Part_from_shop_b\n\n"
        "class It:\n    one: Part\n    two: Part_from_shop_b\n    again: Part"
    )


def test_libraries_are_imported_as_the_module_does(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "import datetime, xml.dom.minidom\n"
            "import decimal as d\n"
            "from shop.again import UUID\n"
            "class It:\n"
            "    at: datetime.datetime\n    price: d.Decimal\n    id: UUID\n"
            "    dom: xml.dom.minidom.Document\n"
        ),
        again="from uuid import UUID as UUID\n",
    )

    assert statements(closure).partition("\n\n")[0].splitlines() == [
        "from uuid import UUID",
        "import datetime",
        "import decimal as d",
        "import xml",
        "import xml.dom.minidom",
    ]
    assert closure.outside >= {"datetime", "decimal", "uuid", "xml.dom.minidom"}


def test_what_a_default_or_a_constraint_needs_comes_along(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "from dataclasses import dataclass, field\n"
            "LEAST = 1\nMOST = LEAST + 9\nUNUSED = 7\n"
            "@dataclass\nclass It:\n"
            "    size: int = field(default=MOST)\n"
            "    sizes: list[int] = field(default_factory=lambda: [size for size in (LEAST,)])\n"
        ),
    )

    assert "LEAST = 1\nMOST = LEAST + 9\n@dataclass" in statements(closure)
    assert "UNUSED" not in statements(closure)


def test_strings_are_values_but_where_types_stand(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "from typing import Annotated, Literal\n"
            "from pydantic import Field\n"
            "from shop import base\n"
            "def order(): ...\n"
            'WORDS = {"order": "order"}\n'
            'Kind = Literal["order", "base.Part"]\n'
            "class It:\n"
            '    kind: Kind = WORDS["order"]\n'
            "    parts: \"Annotated[list[base.Part], Field(description='order')]\"\n"
        ),
        base="class Part:\n    size: int\n",
    )

    text = statements(closure)
    assert 'WORDS = {"order": "order"}\nKind = Literal["order", "base.Part"]\n' in text
    assert "    parts: \"Annotated[list[Part], Field(description='order')]\"" in text


def test_imports_under_a_condition_come_with_what_the_condition_asks(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "import os as system\n"
            'if system.name == "nt":\n    from ntpath import sep as Sep\n'
            "else:\n    from posixpath import sep as Sep\n"
            "class It:\n    sep: Sep\n"
        ),
    )

    assert statements(closure).partition("\n\n")[0] == (
        "import os as system\n"
        'if system.name == "nt":\n    from ntpath import sep as Sep\n'
        "else:\n    from posixpath import sep as Sep"
    )


def test_what_is_opaque_is_passed_on_whatever_it_is(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "from dataclasses import dataclass, field\n"
            "def make(): ...\n"
            "@dataclass\nclass It:\n"
            "    first: Made  # pikku: opaque\n"
            "    # pikku: opaque\n    second: Made = field(default_factory=make)\n"
            "    third: Whole\n"
            "    fourth: Made = field(default=None)  # pikku: opaque\n"
            "Made = make()\n"
            "class Whole(metaclass=make()):  # pikku: opaque\n    inner: Made\n"
        ),
    )

    text = statements(closure)
    assert "    first: Any  # pikku: opaque\n" in text
    assert "    second: Any\n" in text
    assert "    fourth: Any = field(default=None)  # pikku: opaque" in text
    assert "Whole: TypeAlias = Any" in text
    assert "make" not in text


def test_names_of_the_class_itself_are_not_looked_for_elsewhere(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types=(
            "import enum\n"
            "class It(enum.Flag):\n    READ = 1\n    WRITE = 2\n    BOTH = READ | WRITE\n"
            "    def is_both(self): return self is It.BOTH\n"
        ),
    )

    assert "BOTH = READ | WRITE" in statements(closure)
    (module,) = closure.modules
    assert module.dropped == ("It.is_both",)


def test_a_class_of_nothing_but_methods_is_an_empty_class(tmp_path: Path) -> None:
    closure = copied(tmp_path, types="class It(Exception):\n    def say(self): return 1\n")

    assert statements(closure).endswith("class It(Exception):\n    pass")


def test_types_that_need_one_another_are_copied_once(tmp_path: Path) -> None:
    closure = copied(
        tmp_path,
        types='class It:\n    next: "It | None"\n    other: "Other"\nclass Other:\n    it: It\n',
    )

    assert statements(closure).count("class It") == 1
