"""A step graph as an SVG: boxes from top to bottom, side by side where the code is.

Every node is laid out as a block with an entry at the top and an exit at the bottom, both in the
middle, so that blocks can be stacked, put side by side and framed. All measures are whole numbers,
and no font is asked how wide it is: the same graph gives the same bytes everywhere.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast
from unicodedata import east_asian_width

from pikku_gen.drawing.words import (
    FRAMES,
    Node,
    answers,
    nodes,
    note,
    question,
    sequences,
    title,
    unknown,
    visible,
)

_CHARACTER: Final = 8
_LINE: Final = 17
_PADDING: Final = 12
_GAP: Final = 26
_BESIDE: Final = 30
_WRAP: Final = 30
_MARGIN: Final = 20
_STYLE: Final = (
    "text{font:13px sans-serif;fill:#1f2328;text-anchor:middle}"
    ".s{font-size:11px;fill:#59636e}"
    ".l{font-size:11px;fill:#59636e;text-anchor:start}"
    ".b{fill:#fff;stroke:#1f2328}"
    ".w{fill:#eef4ff;stroke:#0969da}"
    ".c{fill:#fff8e5;stroke:#9a6700}"
    ".e{fill:#f6f8fa;stroke:#59636e}"
    ".u{fill:#fff1f0;stroke:#cf222e;stroke-dasharray:5 3}"
    ".f{fill:none;stroke:#8c959f;stroke-dasharray:2 3}"
    ".k{fill:#1f2328}"
    ".p{fill:none;stroke:#1f2328}"
    ".d{fill:none;stroke:#59636e;stroke-dasharray:4 3}"
)


@dataclass(frozen=True, slots=True)
class _Block:
    """A laid-out part: its size, where its middle line is, its pieces, and whether it goes on."""

    width: int
    height: int
    middle: int
    pieces: tuple[str, ...]
    goes_on: bool = True


def as_svg(name: str, graph: Sequence[Node]) -> str:
    """The document."""
    body = _stack([_terminal("start"), *_blocks(graph), _terminal("end")])
    heading = _width(name) // 2 + _MARGIN
    left = max(_MARGIN, heading - body.middle)
    middle = left + body.middle
    width = max(left + body.width + _MARGIN, middle + heading)
    height = body.height + 2 * _MARGIN + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img">',
        f"<title>{_escaped(name)}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path class="k" d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{middle}" y="{_MARGIN + 4}" font-weight="bold">{_escaped(name)}</text>',
        _moved(body, left, _MARGIN + 24),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _blocks(graph: Sequence[Node]) -> list[_Block]:
    return [_block(node) for node in visible(graph)]


def _sequence(graph: Sequence[Node]) -> _Block:
    return _stack(_blocks(graph))


def _block(node: Node) -> _Block:
    match node:
        case {"start": number, "steps": inner}:
            body = _framed(_sequence(nodes(inner)), f"#{number}, in the background")
            return _aside(body)
        case {"step": method}:
            kind = "b" if method in ("do", "saga.do", "map") else "w"
            return _box(title(node), note(node), kind)
        case {"end": str(kind)}:
            return _ended(_box(kind, "", "e"))
        case {"choice": parts}:
            head = _diamond(question(node))
            branches = [_sequence(part) for part in sequences(parts)]
            if node.get("otherwise"):
                branches.append(_nothing())
            return _beside(head, branches, answers(node))
        case {"loop": body}:
            inner = _again(_sequence(nodes(body)))
            orelse = nodes(node.get("else"))
            block = _framed(inner, "repeat")
            return _stack([block, _framed(_sequence(orelse), "else")]) if orelse else block
        case {"try": body}:
            return _try(node, nodes(body))
        case {"parallel": parts}:
            branches = [_sequence(part) for part in sequences(parts)]
            return _barred(branches, "all of", "all")
        case {"race": parts}:
            branches = [_sequence(part) for part in sequences(parts)]
            return _barred(branches, "first of", "the first")
        case {"join": numbers}:
            shown = ", ".join(f"#{each}" for each in cast("list[object]", numbers))
            return _box(f"wait for {shown}", "", "e")
        case {"unknown": _}:
            here = _box(unknown(node), "", "u")
            inner = nodes(node.get("steps"))
            return _stack([here, _framed(_sequence(inner), "unknown")]) if inner else here
        case _:
            kind = next((each for each in FRAMES if each in node), "")
            inside = _sequence(nodes(node.get(kind)))
            block = _framed(inside, FRAMES.get(kind, kind))
            return _Block(block.width, block.height, block.middle, block.pieces)


def _try(node: Node, body: Sequence[Node]) -> _Block:
    tried = _framed(_sequence([*body]), "try")
    handlers = [
        _framed(_sequence(handler), "on failure") for handler in sequences(node.get("except"))
    ]
    if node.get("swallows"):
        handlers.append(_framed(_nothing(), "on failure: go on"))
    right = tried.width - tried.middle
    if orelse := nodes(node.get("else")):
        tried = _stack([tried, _framed(_sequence(orelse), "else")])
    block = _handled(tried, right, handlers)
    if final := nodes(node.get("finally")):
        block = _stack([block, _framed(_sequence(final), "finally")])
    return block


# --- blocks of one piece --------------------------------------------------------------------------


def _box(first: str, second: str, kind: str) -> _Block:
    lines = [(line, "") for line in _wrapped(first)] + [(line, "s") for line in _wrapped(second)]
    width = max(_width(line) for line, _ in lines) + 2 * _PADDING
    width += width % 2
    height = len(lines) * _LINE + _PADDING
    middle = width // 2
    pieces = [f'<rect class="{kind}" width="{width}" height="{height}" rx="7"/>']
    for number, (line, style) in enumerate(lines):
        style = f' class="{style}"' if style else ""
        y = number * _LINE + _PADDING + 7
        pieces.append(f'<text{style} x="{middle}" y="{y}">{_escaped(line)}</text>')
    return _Block(width, height, middle, tuple(pieces))


def _terminal(word: str) -> _Block:
    circle = f'<circle class="{"k" if word == "start" else "p"}" cx="8" cy="8" r="7"/>'
    inner = '<circle class="k" cx="8" cy="8" r="4"/>'
    return _Block(16, 16, 8, (circle,) if word == "start" else (circle, inner))


def _diamond(text: str) -> _Block:
    lines = _wrapped(text)
    width = max(max(map(_width, lines)) * (len(lines) + 1) // 2 + 40, 44)
    width += width % 2
    height = len(lines) * _LINE + 22
    middle, half = width // 2, height // 2
    path = f'<path class="c" d="M{middle} 0L{width} {half}L{middle} {height}L0 {half}z"/>'
    first = half - (len(lines) - 1) * _LINE // 2 + 4
    words = [
        f'<text x="{middle}" y="{first + number * _LINE}">{_escaped(line)}</text>'
        for number, line in enumerate(lines)
    ]
    return _Block(width, height, middle, (path, *words))


def _nothing() -> _Block:
    return _Block(24, 10, 12, (_line(12, 0, 10),))


# --- blocks of blocks -----------------------------------------------------------------------------


def _stack(blocks: Sequence[_Block]) -> _Block:
    """One below the other, with arrows between them."""
    if not blocks:
        return _nothing()
    middle = max(block.middle for block in blocks)
    width = middle + max(block.width - block.middle for block in blocks)
    pieces: list[str] = []
    y = 0
    for number, block in enumerate(blocks):
        if number:
            if blocks[number - 1].goes_on:
                pieces.append(_arrow(middle, y, y + _GAP))
            y += _GAP
        pieces.append(_moved(block, middle - block.middle, y))
        y += block.height
    return _Block(width, y, middle, tuple(pieces), blocks[-1].goes_on)


def _framed(block: _Block, label: str) -> _Block:
    """With a labelled frame around it; the way in does not cross the label."""
    left = max(_PADDING, _note_width(label) + 16 - block.middle)
    width = left + block.width + _PADDING
    top, height = 24, block.height + 24 + _PADDING
    middle = left + block.middle
    pieces = [
        f'<rect class="f" width="{width}" height="{height}" rx="4"/>',
        f'<text class="l" x="8" y="14">{_escaped(label)}</text>',
        _line(middle, 0, top),
        _moved(block, left, top),
    ]
    if block.goes_on:
        pieces.append(_line(middle, top + block.height, height))
    return _Block(width, height, middle, tuple(pieces), block.goes_on)


def _again(block: _Block) -> _Block:
    """With a way back to the top on its right."""
    width = block.width + 22
    pieces = [_moved(block, 0, 12), _line(block.middle, 0, 12)]
    height = block.height + 24
    if block.goes_on:
        x, low = width - 6, block.height + 18
        way = f"M{block.middle} {low}H{x}V6H{block.middle + 4}"
        pieces.append(f'<path class="d" d="{way}" marker-end="url(#a)"/>')
        pieces.append(_line(block.middle, 12 + block.height, height))
    return _Block(width, height, block.middle, tuple(pieces))


def _aside(block: _Block) -> _Block:
    """Started, and not waited for: the way goes on to the left of it."""
    middle, height = 10, block.height + 10
    left = middle + _BESIDE
    width = left + block.width
    pieces = [
        _line(middle, 0, height),
        f'<path class="d" d="M{middle} 5H{left + block.middle}V10" marker-end="url(#a)"/>',
        _moved(block, left, 10),
    ]
    return _Block(width, height, middle, tuple(pieces))


def _beside(head: _Block, branches: Sequence[_Block], labels: Sequence[str]) -> _Block:
    """Branches side by side below their head; those that go on meet again."""
    widths = [
        max(block.width, 2 * _note_width(label) + 16 if label else 0)
        for block, label in zip(branches, labels, strict=True)
    ]
    inner = sum(widths) + _BESIDE * (len(branches) - 1)
    width = max(inner, head.width)
    width += width % 2
    middle, top = width // 2, head.height + 34
    tallest = max(block.height for block in branches)
    height = top + tallest + 16
    pieces = [_moved(head, middle - head.middle, 0)]
    x = (width - inner) // 2
    goes_on = False
    for block, room, label in zip(branches, widths, labels, strict=True):
        left = x + (room - block.width) // 2
        at = left + block.middle
        pieces.append(
            f'<path class="p" d="M{middle} {head.height}V{head.height + 10}H{at}V{top}"'
            ' marker-end="url(#a)"/>'
        )
        if label:
            pieces.append(f'<text class="l" x="{at + 5}" y="{head.height + 24}">{label}</text>')
        pieces.append(_moved(block, left, top))
        if block.goes_on:
            goes_on = True
            way = f"M{at} {top + block.height}V{height - 6}H{middle}V{height}"
            pieces.append(f'<path class="p" d="{way}"/>')
        x += room + _BESIDE
    return _Block(width, height, middle, tuple(pieces), goes_on)


def _barred(branches: Sequence[_Block], above: str, below: str) -> _Block:
    """Branches side by side between two bars."""
    inner = sum(block.width for block in branches) + _BESIDE * (len(branches) - 1)
    width = max(inner, 120)
    width += width % 2
    top, tallest = 30, max(block.height for block in branches)
    bottom = top + tallest + 14
    middle = width // 2
    pieces = [
        f'<rect class="k" width="{width}" height="5"/>',
        f'<text class="l" x="{width + 6}" y="7">{above}</text>',
        f'<rect class="k" y="{bottom}" width="{width}" height="5"/>',
        f'<text class="l" x="{width + 6}" y="{bottom + 7}">{below}</text>',
    ]
    x = (width - inner) // 2
    for block in branches:
        at = x + block.middle
        pieces += [_arrow(at, 5, top), _moved(block, x, top)]
        if block.goes_on:
            pieces.append(_line(at, top + block.height, bottom))
        x += block.width + _BESIDE
    pieces.append(_line(middle, bottom + 5, bottom + 22))
    room = 6 + max(_note_width(above), _note_width(below))
    return _Block(width + room, bottom + 22, middle, tuple(pieces))


def _handled(tried: _Block, right: int, handlers: Sequence[_Block]) -> _Block:
    """What is tried, whose frame ends so far right of the middle, and its handlers beside it."""
    if not handlers:
        return tried
    middle = tried.middle
    width = tried.width + sum(block.width + _BESIDE for block in handlers)
    tallest = max([tried.height, *(block.height + 20 for block in handlers)])
    height = tallest + 16
    pieces = [_moved(tried, 0, 0)]
    if tried.goes_on:
        pieces.append(_line(middle, tried.height, height))
    goes_on = tried.goes_on
    x = tried.width + _BESIDE
    for block in handlers:
        at = x + block.middle
        way = f"M{middle + right} 10H{at}V20"
        pieces.append(f'<path class="d" d="{way}" marker-end="url(#a)"/>')
        pieces.append(_moved(block, x, 20))
        if block.goes_on:
            goes_on = True
            way = f"M{at} {20 + block.height}V{height - 6}H{middle}V{height}"
            pieces.append(f'<path class="p" d="{way}"/>')
        x += block.width + _BESIDE
    return _Block(width, height, middle, tuple(pieces), goes_on)


def _ended(block: _Block) -> _Block:
    return _Block(block.width, block.height, block.middle, block.pieces, goes_on=False)


# --- pieces ---------------------------------------------------------------------------------------


def _moved(block: _Block, x: int, y: int) -> str:
    inner = "".join(block.pieces)
    return f'<g transform="translate({x} {y})">{inner}</g>'


def _line(x: int, top: int, bottom: int) -> str:
    return f'<path class="p" d="M{x} {top}V{bottom}"/>'


def _arrow(x: int, top: int, bottom: int) -> str:
    return f'<path class="p" d="M{x} {top}V{bottom}" marker-end="url(#a)"/>'


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WRAP, break_long_words=True) if text else []


def _width(text: str) -> int:
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text) * _CHARACTER


def _note_width(text: str) -> int:
    """How wide a text in the smaller letters is."""
    return _width(text) * 7 // 8


def _escaped(text: str) -> str:
    """The text as XML, without what XML cannot hold."""
    shown = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    return (
        shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    )
