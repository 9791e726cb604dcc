"""Any value of any declared type comes back equal or is refused by its path, and any text that is
read against a type is a value or the documented error."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from random import Random
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model
from tests.fuzz.kit import ANY_TEXT, JSON, ODD_NUMBERS, fuzz, mangled, mutated, rounds
from typing_extensions import TypedDict

from pikku._codec import PLAIN, Codec, codec_for, first_difference
from pikku.errors import DeclarationError, InvalidInputError, PayloadError, SealError


class Colour(enum.Enum):
    RED = "red"
    NONE = None
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    A = "a"
    B = "\n"


class Pair(NamedTuple):
    left: int
    right: str


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Tree(BaseModel):
    value: int | str
    below: list[Tree] = []


class Open(BaseModel, extra="allow"):
    known: int = 0


class Renamed(BaseModel):
    first_name: str = Field(alias="firstName")


@dataclass(frozen=True)
class Node:
    name: str
    next: Node | None = None
    hidden: int = field(default=0, repr=False, compare=False)


class Row(TypedDict, total=False):
    key: str
    count: int


@dataclass(frozen=True)
class Declared:
    """A type, and values that have it, or nearly."""

    annotation: Any
    values: st.SearchStrategy[Any]

    def __repr__(self) -> str:
        return f"Declared({self.annotation})"


ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(seconds=1)), None]
)
DATETIMES = st.builds(
    lambda at, zone: at.replace(tzinfo=zone),
    st.datetimes(),
    ZONES | st.just(ZoneInfo("Asia/Tokyo")),
)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 5e-324, 1.7976931348623157e308])
INTEGERS = (
    st.integers()
    | st.integers()
    | st.sampled_from([n for n in ODD_NUMBERS if isinstance(n, int)])
    | st.sampled_from([10**4299, -(10**4299), 10**4300, 10**5000])
)
SCALARS: list[Declared] = [
    Declared(type(None), st.none()),
    Declared(bool, st.booleans()),
    Declared(int, INTEGERS | st.booleans()),
    Declared(float, FLOATS | INTEGERS),
    Declared(str, ANY_TEXT),
    Declared(bytes, st.binary(max_size=8)),
    Declared(Decimal, st.decimals() | st.integers()),
    Declared(datetime, DATETIMES | st.dates()),
    Declared(date, st.dates() | st.datetimes()),
    Declared(time, st.times()),
    Declared(timedelta, st.timedeltas()),
    Declared(UUID, st.uuids()),
    Declared(Colour, st.sampled_from(Colour)),
    Declared(Level, st.sampled_from(Level) | st.integers(0, 3)),
    Declared(Word, st.sampled_from(Word) | st.text("ab", max_size=1)),
    Declared(Literal["a", 1, None], st.sampled_from(["a", 1, None, True, "b"])),
    Declared(complex, st.complex_numbers()),
    Declared(IPv4Address, st.ip_addresses(v=4)),
    Declared(PurePosixPath, st.sampled_from(["", ".", "a//b", "/x"]).map(PurePosixPath)),
    Declared(Pair, st.builds(Pair, INTEGERS, ANY_TEXT)),
    Declared(Row, st.fixed_dictionaries({}, optional={"key": ANY_TEXT, "count": INTEGERS})),
    Declared(Renamed, st.builds(Renamed, firstName=ANY_TEXT)),
    Declared(Open, st.dictionaries(st.sampled_from(["a", "known", "é"]), st.integers()).map(
        lambda more: Open(**more))),
    Declared(Pet, st.builds(Cat, lives=INTEGERS) | st.builds(Dog, tricks=st.lists(ANY_TEXT))),
    Declared(
        Tree,
        st.recursive(
            st.builds(Tree, value=st.integers() | ANY_TEXT),
            lambda inner: st.builds(Tree, value=st.integers(), below=st.lists(inner, max_size=2)),
            max_leaves=5,
        ),
    ),
    Declared(Node, st.recursive(
        st.builds(Node, ANY_TEXT, st.none(), st.integers()),
        lambda inner: st.builds(Node, ANY_TEXT, inner), max_leaves=4)),
    Declared(Any, JSON),
    Declared(object, JSON | st.builds(object)),
]  # fmt: skip
FIELD_NAMES = ("a", "b", "model_x", "é", "class_")


def of(kind: Any, *arguments: Any) -> Any:
    """`kind[arguments]`, of what is only known when the test runs."""
    if len(arguments) == 1:
        return kind[arguments[0]]
    return kind[arguments]


def _holding(inner: Declared, how: int) -> Declared:
    values = inner.values
    several = st.lists(values, max_size=3)
    match how:
        case 0:
            return Declared(of(list, inner.annotation), several | several.map(tuple))
        case 1:
            return Declared(of(tuple, inner.annotation, ...), several.map(tuple) | several)
        case 2:
            return Declared(
                of(dict, str, inner.annotation), st.dictionaries(ANY_TEXT, values, max_size=3)
            )
        case 3:
            return Declared(of(Optional, inner.annotation), st.none() | values)
        case 4:
            return Declared(of(tuple, inner.annotation, int), st.tuples(values, st.integers()))
        case 5:
            keyed = st.dictionaries(st.sampled_from(FIELD_NAMES), values, max_size=2)
            return Declared(of(OrderedDict, str, inner.annotation), keyed.map(OrderedDict))
        case 6:
            return Declared(of(deque, inner.annotation), several.map(deque))
        case _:
            numbered = st.dictionaries(st.integers(), values, max_size=2)
            return Declared(
                of(dict, int, inner.annotation),
                numbered | numbered.map(lambda d: defaultdict(int, d)),
            )


def _fields(inner: list[Declared], how: int) -> Declared:
    names = FIELD_NAMES[: len(inner)]
    shapes = {name: each.annotation for name, each in zip(names, inner, strict=True)}
    values = st.fixed_dictionaries({n: e.values for n, e in zip(names, inner, strict=True)})
    match how:
        case 0:
            fields: dict[str, Any] = {name: (shape, ...) for name, shape in shapes.items()}
            model: Any = create_model("Made", **fields)
            return Declared(model, values.map(lambda given: model.model_construct(**given)))
        case 1:
            made = make_dataclass("Record", list(shapes.items()))
            return Declared(made, values.map(lambda given: made(**given)))
        case 2:
            make: Any = TypedDict
            return Declared(make("Typed", shapes), values)
        case _:
            kinds: Any = Union[tuple(shapes.values())]  # noqa: UP007
            return Declared(kinds, st.one_of([each.values for each in inner]))


def hashable(declared: Declared, how: int) -> Declared:
    made: Callable[[list[Any]], Any] = frozenset if how else set
    return Declared(of(made, declared.annotation), st.lists(declared.values, max_size=3).map(made))


PLAIN_SCALARS = [each for each in SCALARS[:17] if each.annotation is not Decimal]
DECLARED = st.recursive(
    st.sampled_from(SCALARS)
    | st.builds(hashable, st.sampled_from(PLAIN_SCALARS), st.integers(0, 1)),
    lambda inner: (
        st.builds(_holding, inner, st.integers(0, 7))
        | st.builds(_fields, st.lists(inner, min_size=1, max_size=4), st.integers(0, 3))
    ),
    max_leaves=4,
)


def same(one: Any, other: Any) -> bool:
    """Equal and of one class, all the way down; an int may be a float where one is declared."""
    if isinstance(other, int) and type(one) is float:
        return one == other
    if type(one) is not type(other):
        return False
    if isinstance(other, (list, tuple, deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in other)
    if isinstance(other, BaseModel):
        return same(dict(one), dict(other))
    if hasattr(other, "__dataclass_fields__"):
        return same(vars(one), vars(other))
    return one is other or bool(one == other)


def codec_of(declared: Declared) -> Codec | None:
    try:
        return codec_for(declared.annotation, "test")
    except DeclarationError:
        return None


def assert_names_the_place(error: PayloadError | InvalidInputError) -> None:
    told = str(error)
    assert told.startswith(error.code)
    assert "test" in told
    told.encode()


@fuzz(500)
@given(st.data())
def test_a_value_comes_back_equal_or_is_refused_by_its_path(data: st.DataObject) -> None:
    declared = data.draw(DECLARED)
    codec = codec_of(declared)
    if codec is None:
        return
    value = data.draw(declared.values)

    try:
        text, decoded = codec.encode(value, "test")
    except PayloadError as error:
        assert_names_the_place(error)
        return

    json.loads(text)
    text.encode()
    assert same(decoded, value)
    again = codec.decode(text, "test")
    assert same(again, decoded)
    assert codec.encode(again, "test")[0] == codec.encode(decoded, "test")[0]


@fuzz(300)
@given(st.data())
def test_what_a_caller_hands_in_is_admitted_in_canonical_form_or_refused(
    data: st.DataObject,
) -> None:
    declared = data.draw(DECLARED)
    codec = codec_of(declared)
    if codec is None:
        return
    value = data.draw(declared.values | JSON)

    try:
        text = codec.admit(value, "test")
    except (InvalidInputError, PayloadError) as error:
        assert_names_the_place(error)
        return

    assert codec.admit_json(text, "test") == codec.encode(codec.decode(text, "test"), "test")[0]


@fuzz(400)
@given(st.data())
def test_any_json_is_read_as_a_value_or_refused(data: st.DataObject) -> None:
    declared = data.draw(DECLARED)
    codec = codec_of(declared)
    if codec is None:
        return
    written = data.draw(JSON)
    text = json.dumps(written, ensure_ascii=data.draw(st.booleans()))

    assert_read(codec, text)


def test_any_change_of_stored_text_is_read_as_a_value_or_refused() -> None:
    texts: list[tuple[Codec, str]] = []
    for annotation, value in SAMPLES:
        codec = codec_for(annotation, "test")
        texts.append((codec, codec.encode(value, "test")[0]))
    texts.append((PLAIN, PLAIN.encode({"a": [1, 2.5, None, "é", {}], "b": True}, "test")[0]))

    for draw in rounds(900, "stored text"):
        codec, text = draw.choice(texts)
        if draw.random() < 0.5:
            made = json.dumps(mutated(json.loads(text), draw, draw.randint(1, 3)))
        else:
            made = mangled(text.encode(), draw).decode(draw.choice(["latin-1", "utf-8"]), "replace")
        assert_read(codec, made)


def assert_read(codec: Codec, text: str) -> None:
    """Whoever reads the text gets a value that can be written again, or what is documented."""
    try:
        value = codec.decode(text, "test")
    except (PayloadError, SealError) as error:
        str(error).encode()
    else:
        rewritten(codec, value)
    try:
        canonical = codec.admit_json(text, "test")
    except (InvalidInputError, PayloadError, SealError) as error:
        str(error).encode()
    else:
        assert codec.admit_json(canonical, "test") == canonical


def rewritten(codec: Codec, value: Any) -> None:
    try:
        text, again = codec.encode(value, "test")
    except PayloadError as error:
        assert_names_the_place(error)
        return
    assert same(again, value)
    assert codec.encode(codec.decode(text, "test"), "test")[0] == text


SAMPLES: list[tuple[Any, Any]] = [
    (Tree, Tree(value=1, below=[Tree(value="a", below=[Tree(value=2)])])),
    (Pet, Dog(tricks=["sit", "🦆"])),
    (Node, Node("a", Node("b"))),
    (dict[UUID, list[Row]], {UUID(int=5): [{"key": "k", "count": 2}]}),
    (tuple[datetime, Decimal], (datetime(2024, 1, 2, tzinfo=UTC), Decimal("1.50"))),
    (list[Colour], [Colour.RED, Colour.NONE]),
    (list[Pair], [Pair(1, "x")]),
    (Open, Open(**{"known": 1, "more": 2})),
    (dict[str, timedelta], {"a": timedelta(days=1, microseconds=3)}),
    (bytes, b"abc"),
]  # fmt: skip


@fuzz(200)
@given(JSON, JSON)
def test_the_first_difference_of_two_values_is_found(one: Any, other: Any) -> None:
    try:
        left, right = PLAIN.encode(one, "test")[0], PLAIN.encode(other, "test")[0]
    except PayloadError:
        return

    assert first_difference(left, left) is None
    assert (first_difference(left, right) is None) == (first_difference(right, left) is None)


@pytest.mark.parametrize("codec", [PLAIN, codec_for(Tree, "test"), codec_for(list[Any], "test")])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000, "9" * 100_000, "-"]
)
def test_text_without_end_is_refused(codec: Codec, text: str) -> None:
    assert_read(codec, text)


class Shelf(BaseModel):
    rows: list[Row]
    counts: list[int] = []


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (list[int], [1, "x"], "value[1]"),
        (Shelf, Shelf.model_construct(rows=[], counts=[1, "x"]), "value.counts[1]"),
        (Shelf, Shelf(rows=[{"key": "a"}, {"key": "\ud800"}]), "value.rows[1].key"),
        (Any, {"a": [1, "\ud800"]}, "value.a[1]"),
        (Any, {"\ud800": 1}, "value"),
        (deque[int], deque([1, Level.LOW]), "value[1]"),
        (deque[int], deque([1], maxlen=3), "value"),
        (set[int], {True}, "value[True]"),
        (dict[str, int], {Word.A: 1}, "value.a"),
        (OrderedDict[str, list[int]], OrderedDict(a=[Level.LOW]), "value.a[0]"),
        (defaultdict[str, int], defaultdict(lambda: 5, {"a": 1}), "value"),
        (Pair, Pair(True, "a"), "value[0]"),
    ],
)
def test_a_value_that_would_change_is_refused_by_its_path(
    annotation: Any, value: Any, path: str
) -> None:
    with pytest.raises(PayloadError) as refused:
        codec_for(annotation, "test").encode(value, "test")

    assert f" test: {path}: " in str(refused.value)


def test_a_number_that_could_not_be_read_again_is_refused_by_its_path() -> None:
    for value, path in ((10**4300, "value"), ([1, {"a": 10**5000}], "value[1].a")):
        with pytest.raises(PayloadError) as refused:
            PLAIN.encode(value, "test")
        assert f" test: {path}: " in str(refused.value)
        with pytest.raises(InvalidInputError):
            codec_for(str, "test").admit(value, "test")


def test_text_that_is_no_unicode_is_no_json() -> None:
    with pytest.raises(PayloadError):
        PLAIN.decode('"\ud800"', "test")
    for codec in (PLAIN, codec_for(str, "test")):
        with pytest.raises(InvalidInputError):
            codec.admit_json('"\ud800"', "test")


def test_the_same_seed_draws_the_same() -> None:
    document = {"a": [1, {"b": None}], "c": "d"}

    assert repr(mutated(document, Random(1))) == repr(mutated(document, Random(1)))
