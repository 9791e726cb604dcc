"""What the fuzz tests share: how many examples, from which seed, and how bytes and JSON go wrong.

`PIKKU_TEST_SEED=7` draws other examples, as a failure prints it; `PIKKU_FUZZ_EXAMPLES=20` draws
twenty times as many.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeAlias, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

Test = TypeVar("Test", bound=Callable[..., Any])
Path: TypeAlias = tuple[str | int, ...]

SEED = int(os.environ.get("PIKKU_TEST_SEED") or 0)
TIMES = float(os.environ.get("PIKKU_FUZZ_EXAMPLES") or 1)
REPEAT = f"PIKKU_TEST_SEED={SEED} PIKKU_FUZZ_EXAMPLES={TIMES:g}"


def count(examples: int) -> int:
    """As many examples as this run is asked for."""
    return max(1, round(examples * TIMES))


def fuzz(examples: int, *, shrinks: bool = True) -> Callable[[Test], Test]:
    """Settings for a `@given` test: the same examples again for the same seed."""
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if shrinks else [])]

    def decorate(test: Test) -> Test:
        made = settings(
            max_examples=count(examples),
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )(test)
        return seed(SEED)(made)

    return decorate


def rounds(examples: int, name: str) -> Iterator[Random]:
    """A source of chance for each example, the same again for the same seed."""
    for number in range(count(examples)):
        yield Random(f"{SEED}/{name}/{number}")


# --- text -----------------------------------------------------------------------------------------

SURROGATES = st.characters(categories=["Cs"])
CONTROLS = st.characters(categories=["Cc", "Cf", "Zl", "Zp"])
ANY_TEXT = st.text(st.characters() | SURROGATES | CONTROLS, max_size=30)
"""Any text that a Python program can hold, lone surrogates too."""
UNICODE = st.text(st.characters(codec="utf-8"), max_size=20)

ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "\ud800",
    "a\udfffb",
    "\u2028",
    "\u202e",
    "e\u0301",
    "\ufeff",
    "🦆" * 3,
    "x" * 70_000,
    "[" * 5_000,
    "null",
    "-1",
    "1e999",
    '"',
    "{}",
    "sealed:",
    "..",
    "~",
    "#",
)
ODD_NUMBERS: tuple[Any, ...] = (
    0,
    1,
    -1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    1.0,
    1e308,
    float("inf"),
    float("nan"),
)


# --- JSON -----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(ODD_NUMBERS)
    | st.floats()
    | ANY_TEXT
    | st.sampled_from(ODD_TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every value inside *value*, itself the first."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def at(value: Any, path: Path) -> Any:
    """What is at a path."""
    for part in path:
        value = value[part]
    return value


def odd_value(draw: Random) -> Any:
    """A value that a reader may not expect."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: draw.choice([True, False]),
        lambda: draw.choice(ODD_NUMBERS),
        lambda: draw.choice(ODD_TEXTS),
        lambda: [],
        lambda: {},
        lambda: [odd_value(draw)],
        lambda: {draw.choice(ODD_TEXTS): odd_value(draw)},
        lambda: str(draw.randint(-3, 99)),
    ]
    return draw.choice(kinds)()


def retyped(value: Any, draw: Random) -> Any:
    """The same in another JSON type, or what stands close to it."""
    if isinstance(value, bool):
        return draw.choice([int(value), str(value).lower(), not value])
    if isinstance(value, int):
        return draw.choice(
            [
                str(value),
                value / 2**9 if abs(value) < 2**1000 else 0.5,
                value + 1,
                value - 1,
                -value,
                bool(value),
            ]
        )
    if isinstance(value, str):
        near = [value + "\x00", value + "\ud800", value[:-1], value[1:], value * 2, [value]]
        return draw.choice([*near, value.upper(), f" {value}"])
    if isinstance(value, list):
        return draw.choice([{}, None, [*value, *value], value[::-1], {"0": value}])
    if isinstance(value, dict):
        return draw.choice([list(value), None, [value], "{}"])
    return odd_value(draw)


def mutated(document: Any, draw: Random, changes: int = 1) -> Any:
    """A copy of a JSON document with something dropped, retyped, doubled, moved or added."""
    made = copy.deepcopy(document)
    for _ in range(changes):
        path = draw.choice(list(places(made)))
        if not path:
            if draw.random() < 0.1:
                made = odd_value(draw)
            continue
        holder, name = at(made, path[:-1]), path[-1]
        spare = copy.deepcopy(at(made, path))
        match draw.randrange(6):
            case 0:
                del holder[name]
            case 1:
                holder[name] = odd_value(draw)
            case 2 | 3:
                holder[name] = retyped(holder[name], draw)
            case 4 if isinstance(holder, list):
                holder.insert(draw.randint(0, len(holder)), spare)
            case 4:
                holder[draw.choice([*ODD_TEXTS, "more", str(name) + "_"])] = odd_value(draw)
            case _:
                other = draw.choice(list(places(made)))
                holder[name] = copy.deepcopy(at(made, other))
    return made


# --- bytes ----------------------------------------------------------------------------------------

ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r",
    b"\x0c",
    b"\t",
    b"\\",
    b"(",
    b")",
    b"[" * 300,
    b"{",
    b'"',
    b'"""',
    b"# -*- coding: utf-7 -*-\n",
    b"9" * 5000,
    b"\xe2\x80\xa8",
    b"\n",
    b"=",
    b"@",
    b"async ",
    b"await ",
    b"*",
    b"lambda: ",
)


def mangled(data: bytes, draw: Random, changes: int = 1) -> bytes:
    """The bytes cut short, flipped, doubled, swapped or with something put in between."""
    for _ in range(changes):
        start = draw.randint(0, len(data))
        end = min(len(data), start + draw.choice([1, 1, 2, 8, 40, 200]))
        match draw.randrange(7):
            case 0:
                data = data[:start]
            case 1 if data:
                place = start % len(data)
                bit = 1 << draw.randrange(8)
                data = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            case 2:
                data = data[:start] + data[end:]
            case 3:
                data = data[:end] + data[start:end] + data[end:]
            case 4:
                data = data[:start] + draw.randbytes(draw.randint(1, 4)) + data[end:]
            case 5:
                lines = data.split(b"\n")
                draw_from, draw_to = draw.randrange(len(lines)), draw.randrange(len(lines))
                lines.insert(draw_to, lines.pop(draw_from))
                data = b"\n".join(lines)
            case _:
                data = data[:start] + draw.choice(ODD_BYTES) + data[start:]
    return data
