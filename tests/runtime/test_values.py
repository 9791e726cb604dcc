"""Values: what goes through a step comes back the same, or is refused where it was made."""

import dataclasses
import enum
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr
from tests.runtime.kit import Ctx, Toy, Wf, World, steps_of
from typing_extensions import TypedDict

from pikku import StepFailedError
from pikku._codec import PLAIN, codec_for
from pikku.errors import DeclarationError, InvalidInputError, PayloadError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float
    label: str | None = None


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


class Row(TypedDict):
    key: str
    count: int


class Pair(NamedTuple):
    left: int
    right: str


class Leaf(BaseModel):
    name: str
    at: datetime
    price: Decimal
    colour: Colour


class Tree(BaseModel):
    leaves: list[Leaf]
    by_id: dict[UUID, Leaf]
    child: "Tree | None" = None
    points: tuple[Point, ...] = ()
    row: Row | None = None


class Special(Leaf):
    extra: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Renamed(BaseModel):
    first_name: str = Field(alias="firstName")


class Forgetful(BaseModel):
    kept: int
    dropped: int = Field(default=0, exclude=True)


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
AWARE = st.datetimes(timezones=st.just(UTC))
LEAVES = st.builds(
    Leaf,
    name=TEXT,
    at=AWARE,
    price=st.decimals(allow_nan=False, allow_infinity=False),
    colour=st.sampled_from(Colour),
)
POINTS = st.builds(
    Point,
    x=st.integers(),
    y=st.floats(allow_nan=False, allow_infinity=False),
    label=st.none() | TEXT,
)
ROWS = st.fixed_dictionaries({"key": TEXT, "count": st.integers()})
TREES = st.builds(
    Tree,
    leaves=st.lists(LEAVES, max_size=3),
    by_id=st.dictionaries(st.uuids(), LEAVES, max_size=2),
    child=st.none() | st.builds(Tree, leaves=st.just([]), by_id=st.just({})),
    points=st.lists(POINTS, max_size=2).map(tuple),
    row=st.none() | ROWS,
)


def assert_round_trip(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation, "test")
    text, decoded = codec.encode(value, "test")
    again = codec.decode(text, "test")
    canonical = codec.encode(again, "test")[0]
    assert codec.encode(codec.decode(canonical, "test"), "test")[0] == canonical
    unchanged = all(type(each) is type(value) and each == value for each in (decoded, again))
    assert unchanged


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


# --- round trips ----------------------------------------------------------------------------------


@given(PLAIN_VALUES)
def test_plain_values_come_back_the_same(value: Any) -> None:
    text, decoded = PLAIN.encode(value, "test")
    assert same(decoded, value)
    assert same(PLAIN.decode(text, "test"), value)


@given(TREES)
def test_nested_models_come_back_the_same(value: Tree) -> None:
    assert_round_trip(Tree, value)


@given(POINTS)
def test_dataclasses_come_back_the_same(value: Point) -> None:
    assert_round_trip(Point, value)


@given(ROWS)
def test_typed_dicts_come_back_the_same(value: Row) -> None:
    assert_round_trip(Row, value)


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (int | None, [None, 0, -1, 2**80]),
        (bool, [True, False]),
        (float, [0.0, -0.0, 1e308, 5e-324]),
        (str, ["", "é", "\x00", "😀", "\u2028", 'a\\b"c', "NaN"]),
        (list[int], [[], [0]]),
        (dict[str, int], [{}, {"": 0}]),
        (dict[int, str], [{1: "a"}]),
        (tuple[int, str], [(1, "a")]),
        (tuple[int, ...], [(), (1, 2)]),
        (set[int], [set(), {1, 2}]),
        (frozenset[str], [frozenset({"a"})]),
        (bytes, [b"", b"text"]),
        (Decimal, [Decimal("0.10"), Decimal("1E+3"), Decimal(0), Decimal("-0")]),
        (UUID, [UUID(int=0), UUID(int=2**128 - 1)]),
        (Colour, list(Colour)),
        (Level, list(Level)),
        (date, [date(2030, 1, 1), date.min, date.max]),
        (time, [time(1, 2, 3, 4)]),
        (timedelta, [timedelta(0), timedelta(days=1, microseconds=1)]),
        (datetime, [datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1)]),
        (Pair, [Pair(1, "a")]),
        (Pet, [Cat(lives=9), Dog(tricks=["sit"])]),
        (list[Pet], [[Cat(lives=9), Dog(tricks=[])]]),
        (Renamed, [Renamed(firstName="Ann")]),
        (Literal["a", 1], ["a", 1]),
        (int | str, [1, "1", ""]),
        (None, [None]),
    ],
)
def test_values_of_each_type_come_back_the_same(annotation: Any, values: list[Any]) -> None:
    for value in values:
        assert_round_trip(annotation, value)


@pytest.mark.parametrize(
    "value", [None, False, True, 0, 0.0, "", [], {}, [None], {"": None}, "😀", 2**70]
)
async def test_falsy_and_odd_values_are_recorded_and_replayed_as_they_are(
    toy: Toy, world: World, value: Any
) -> None:
    seen: list[Any] = []

    @toy.workflow
    async def keeping(ctx: Wf) -> Any:
        kept = await ctx.workflow.do("Keep", lambda: value)
        seen.append(kept)
        await ctx.workflow.sleep("Wait", "1h")
        return kept

    async with world.lab(toy) as lab:
        lab.crash_after("Keep")
        run = await toy.start("keeping")
        await lab.recover()
        assert same(await run.result(), value)
        assert lab.executions("Keep") == 1
    assert all(same(each, value) for each in seen)


async def test_the_first_execution_is_handed_the_decoded_form(toy: Toy, world: World) -> None:
    made: list[Any] = []
    seen: list[Any] = []

    @toy.func
    async def make(ctx: Ctx) -> Tree:
        tree = Tree(leaves=[], by_id={}, points=(Point(1, 2.0),))
        made.append(tree)
        return tree

    @toy.workflow
    async def using(ctx: Wf) -> int:
        tree = await ctx.workflow.do("Make", make)
        seen.append(tree)
        inline = await ctx.workflow.do("Make a list", lambda: made_list)
        seen.append(inline)
        return 0

    made_list = [1, [2]]
    async with world.lab(toy):
        await (await toy.start("using")).result()
    assert same(seen[0], made[0])
    assert seen[0] is not made[0]
    assert seen[1] == made_list
    assert seen[1] is not made_list
    assert seen[1][1] is not made_list[1]


async def test_changing_a_returned_object_does_not_change_what_was_recorded(
    toy: Toy, world: World
) -> None:
    shared: list[int] = [1]
    seen: list[list[int]] = []

    @toy.func
    async def give(ctx: Ctx) -> list[int]:
        return shared

    @toy.workflow
    async def using(ctx: Wf) -> list[int]:
        first = await ctx.workflow.do("Give", give)
        seen.append(list(first))
        first.append(99)
        inline = await ctx.workflow.do("Give inline", lambda: shared)
        seen.append(list(inline))
        inline.append(98)
        await ctx.workflow.sleep("Wait", "1h")
        return [*first, *inline]

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("using")
        shared.append(2)
        await lab.recover()
        await lab.advance("1h")
        assert await run.result() == [1, 99, 1, 98]
        steps = await steps_of(lab, run)
        assert steps["Give"].result == steps["Give inline"].result == "[1]"
    assert all(each == [1] for each in seen)


async def test_changing_an_input_in_a_step_does_not_change_the_workflow_s_own(
    toy: Toy, world: World
) -> None:
    @toy.func
    async def spoil(ctx: Ctx, data: list[int]) -> None:
        data.append(99)

    @toy.workflow
    async def using(ctx: Wf, data: list[int]) -> list[int]:
        await ctx.workflow.do("Spoil", spoil, data)
        return data

    async with world.lab(toy) as lab:
        given = [1]
        run = await toy.start("using", given)
        assert await run.result() == [1]
        assert given == [1]
        assert (await steps_of(lab, run))["Spoil"].input == "[1]"


async def test_functions_get_their_input_validated_and_decoded_also_in_direct_calls(
    toy: Toy, world: World
) -> None:
    seen: list[Any] = []

    @toy.func
    async def take(ctx: Ctx, data: Leaf) -> str:
        seen.append(data)
        return data.name

    @toy.workflow
    async def using(ctx: Wf, data: dict[str, str]) -> str:
        return await ctx.workflow.do("Take", "take", data)  # type: ignore[no-any-return, call-overload]

    raw = {"name": "n", "at": "2030-01-01T00:00:00Z", "price": "1.50", "colour": "red"}
    leaf = Leaf(name="n", at=datetime(2030, 1, 1, tzinfo=UTC), price=Decimal("1.50"), colour=Colour.RED)  # fmt: skip # noqa: E501
    async with world.lab(toy):
        assert await (await toy.start("using", raw)).result() == "n"
        assert await toy.app.invoke("take", raw) == "n"
        with pytest.raises(InvalidInputError) as caught:
            await toy.app.invoke("take", {**raw, "colour": "green"})
        assert "input.colour" in str(caught.value)
        with pytest.raises(InvalidInputError):
            await toy.app.invoke("take")
    assert seen == [leaf, leaf]


async def test_a_step_s_input_that_does_not_fit_is_refused_before_the_step_is_recorded(
    toy: Toy, world: World
) -> None:
    @toy.func
    async def take(ctx: Ctx, data: Leaf) -> None: ...

    @toy.workflow
    async def using(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Take", "take", {"name": 1})  # type: ignore[call-overload]
        except InvalidInputError as error:
            return str(error)
        return ""

    async with world.lab(toy) as lab:
        run = await toy.start("using")
        assert "step 'Take'" in await run.result()
        assert await steps_of(lab, run) == {}


# --- refusals ----------------------------------------------------------------------------------


class StrSubclass(str):
    pass


class IntSubclass(int):
    pass


def self_referring() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


UNANNOTATED: list[tuple[str, Callable[[], Any], str]] = [
    ("tuple", lambda: (1, 2), "value"),
    ("tuple inside", lambda: {"a": [1, (2,)]}, "value.a[1]"),
    ("set", lambda: {1}, "value"),
    ("bytes", lambda: b"x", "value"),
    ("datetime", lambda: datetime(2030, 1, 1), "value"),
    ("decimal", lambda: Decimal(1), "value"),
    ("enum", lambda: Colour.RED, "value"),
    ("int enum", lambda: Level.LOW, "value"),
    ("str subclass", lambda: StrSubclass("x"), "value"),
    ("int subclass in a list", lambda: [IntSubclass(1)], "value[0]"),
    ("model", lambda: Cat(lives=1), "value"),
    ("dataclass", lambda: Point(1, 2.0), "value"),
    ("NaN", lambda: math.nan, "value"),
    ("infinity", lambda: [math.inf], "value[0]"),
    ("minus infinity", lambda: {"a": -math.inf}, "value.a"),
    ("int key", lambda: {1: "a"}, "value"),
    ("None key", lambda: {"a": {None: 1}}, "value.a"),
    ("surrogate", lambda: "lone \ud800", "value"),
    ("surrogate inside", lambda: ["lone \ud800"], "value"),
    ("surrogate key", lambda: {"\ud800": 1}, "value"),
    ("self-reference", self_referring, "value"),
    ("deep", lambda: deep(100_000), "value"),
    ("object", object, "value"),
    ("generator", lambda: (n for n in [1]), "value"),
    ("exception", lambda: ValueError("x"), "value"),
    ("dict subclass", lambda: __import__("collections").Counter("a"), "value"),
]


@pytest.mark.parametrize(
    ("make", "path"), [each[1:] for each in UNANNOTATED], ids=[each[0] for each in UNANNOTATED]
)
async def test_what_needs_a_declared_type_is_refused_at_the_step_that_made_it(
    toy: Toy, memory: World, make: Callable[[], Any], path: str
) -> None:
    @toy.workflow
    async def using(ctx: Wf) -> list[Any]:
        try:
            await ctx.workflow.do("Make it", make, retries=3)
        except StepFailedError as failed:
            assert failed.caused_by(PayloadError)
            return [failed.error.message, failed.error.code, failed.attempt_count]
        return []

    async with memory.lab(toy) as lab:
        message, code, attempts = await (await toy.start("using")).result()
        assert (code, attempts) == ("PKR307", 1)
        assert message.startswith("step 'Make it': " + path)
        assert lab.executions("Make it") == 1


async def test_an_int_where_a_float_is_declared_is_a_float_the_first_time_too(
    toy: Toy, world: World
) -> None:
    seen: list[type[Any]] = []

    @toy.func
    async def give(ctx: Ctx) -> float:
        return 1

    @toy.workflow
    async def using(ctx: Wf) -> float:
        value = await ctx.workflow.do("Give", give)
        seen.append(type(value))
        await ctx.workflow.sleep("Wait", "1h")
        return 2

    async with world.lab(toy) as lab:
        run = await toy.start("using")
        await lab.recover()
        assert type(await run.result()) is float
    assert set(seen) == {float}


async def test_a_refused_value_names_the_way_out(toy: Toy, memory: World) -> None:
    @toy.workflow
    async def using(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Make it", lambda: (1, 2))
        except StepFailedError as failed:
            return str(failed)
        return ""

    async with memory.lab(toy):
        assert "returns=" in await (await toy.start("using")).result()


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (
            Leaf,
            Special(
                name="n", at=datetime(2030, 1, 1), price=Decimal(1), colour=Colour.RED, extra=1
            ),
        ),
        (list[Point], [Point3(1, 2.0)]),
        (Point, Point3(1, 2.0)),
        (str, StrSubclass("x")),
        (int, True),
        (int, IntSubclass(1)),
        (bool, 1),
        (float, 2**53 + 1),
        (str, b"x"),
        (list[int], (1, 2)),
        (tuple[int, ...], [1]),
        (dict[str, int], {"a": True}),
        (float, math.nan),
        (list[float], [math.inf]),
        (Point, Point(1, math.nan)),
        (Leaf, Leaf(name="\ud800", at=datetime(2030, 1, 1), price=Decimal(1), colour=Colour.RED)),
        (Decimal, Decimal("NaN")),
        (Decimal, Decimal("Infinity")),
        (Forgetful, Forgetful(kept=1, dropped=2)),
        (Colour, "red"),
        (UUID, "00000000-0000-0000-0000-000000000000"),
        (datetime, "2030-01-01"),
        (Row, {"key": "a"}),
        (Row, {"key": "a", "count": 1, "more": 2}),
        (Cat, Dog(tricks=[])),
        (SecretStr, SecretStr("hidden")),
        (None, 0),
        (None, ""),
    ],
    ids=lambda each: repr(each)[:40] if not isinstance(each, type) else each.__name__,
)
def test_a_value_that_would_not_come_back_the_same_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        codec_for(annotation, "test").encode(value, "the result of 'f'")
    assert str(caught.value).startswith("PKR307 the result of 'f': ")


@given(st.one_of(PLAIN_VALUES, TREES, POINTS, st.binary(), st.tuples(st.integers()), AWARE))
def test_a_value_is_refused_or_comes_back_the_same_whatever_its_declared_type(value: Any) -> None:
    for annotation in (int, str, float, list[int], Tree, Point, Row, datetime, int | None, object):
        codec = codec_for(annotation, "test")
        try:
            text, decoded = codec.encode(value, "test")
        except PayloadError:
            continue
        expected = float(value) if annotation is float else value  # an int fits float
        assert same(decoded, expected)
        assert same(codec.decode(text, "test"), expected)
        assert expected == value


def test_an_aware_datetime_of_another_zone_keeps_its_moment_and_offset() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    value = datetime(2030, 1, 1, tzinfo=zone)
    _, decoded = codec_for(datetime, "test").encode(value, "test")
    assert decoded == value
    assert decoded.utcoffset() == value.utcoffset()


async def test_an_undiscriminated_union_of_models_never_comes_back_as_the_other_one(
    toy: Toy, memory: World
) -> None:
    class Left(BaseModel):
        a: int

    class Right(BaseModel):
        a: int
        b: int = 0

    value = Right(a=1)
    try:
        codec = codec_for(Left | Right, "test")
        _, decoded = codec.encode(value, "test")
    except (PayloadError, DeclarationError):
        return
    assert same(decoded, value)


async def test_a_returns_argument_declares_what_a_lambda_returns(toy: Toy, world: World) -> None:
    @toy.workflow
    async def using(ctx: Wf) -> bool:
        pair = await ctx.workflow.do("Pair", lambda: (1, "a"), returns=tuple[int, str])
        point = await ctx.workflow.do("Point", lambda: Point(1, 2.0), returns=Point)
        return type(pair) is tuple and type(point) is Point

    async with world.lab(toy):
        assert await (await toy.start("using")).result() is True


async def test_a_result_of_the_run_that_cannot_be_stored_fails_the_run_with_a_payload_error(
    toy: Toy, world: World
) -> None:
    @toy.workflow
    async def using(ctx: Wf) -> float:
        return math.nan

    async with world.lab(toy):
        info = await (await toy.start("using")).info()
        assert info.status == "failed"
        assert info.error is not None
        assert info.error.code == "PKR307"


async def test_a_stored_result_that_no_longer_fits_fails_typed_and_not_silently(
    toy: Toy, world: World
) -> None:
    @toy.func
    async def make(ctx: Ctx) -> int:
        return 5

    async def make_text(ctx: Ctx) -> list[str]:
        return ["x"]

    @toy.workflow
    async def using(ctx: Wf) -> str:
        try:
            await ctx.workflow.do("Make", "make")  # type: ignore[call-overload]
        except StepFailedError as failed:
            return failed.error.code or ""
        await ctx.workflow.sleep("Wait", "1h")
        return "fits"

    async with world.lab(toy, auto_advance=False) as lab:
        run = await toy.start("using")
        toy.replace_func(make_text, name="make")
        await lab.recover()
        await lab.advance("1h")
        # Either is typed: the step's error at its await, or a suspension that names the step.
        info = await run.info()
        if info.status == "suspended":
            assert "Make" in str(info.error)
        else:
            assert await run.result() == "PKR307"
        assert lab.executions("Make") == 1


# --- 2.7: recorded side effects ---------------------------------------------------------------


async def test_now_uuid4_and_random_are_drawn_once_and_replayed(toy: Toy, world: World) -> None:
    drawn: list[tuple[Any, ...]] = []

    @toy.workflow
    async def drawing(ctx: Wf) -> None:
        wire = ctx.workflow
        values = (await wire.now(), await wire.uuid4(), await wire.random(), await wire.uuid4())
        drawn.append(values)
        await wire.sleep("Wait", "1h")
        drawn.append(values)

    async with world.lab(toy, auto_advance=False) as lab:
        begun = lab.clock.now()
        run = await toy.start("drawing")
        await lab.advance("10min")
        await lab.recover()
        await lab.advance("1h")
        await run.result()
    assert len(drawn) >= 2
    assert len(set(drawn)) == 1
    now, first, number, second = drawn[0]
    assert now == begun
    assert now.utcoffset() == timedelta(0)
    assert isinstance(first, UUID)
    assert (first.version, second.version) == (4, 4)
    assert first != second
    assert 0 <= number < 1
