"""The code blocks of a Markdown page, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?P<path>[\w./-]+\.\w+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    place: str
    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The file that the block is: what its first line says in a comment."""
        found = _FILE.match(self.text.partition("\n")[0])
        return found["path"] if found else None


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of *page*."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}", found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """The text of *page* without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
