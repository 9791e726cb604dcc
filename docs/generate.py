"""Writes docs/errors.md from the sources that own the words: `python docs/generate.py`.

With `--check` it writes nothing, and exits 1 when the page is stale.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pikku.errors
from pikku.errors import PikkuError, RetryError, TerminalError
from pikku_gen.codes import markdown

PAGE = Path(__file__).resolve().parent / "errors.md"
INTRODUCTION = """\
# Errors

<!-- written by docs/generate.py from the sources; do not edit -->

Errors of the running program are exceptions with a code `PKR…`.
They are all in `pikku.errors`, and derive from `PikkuError`.

What `pikku-gen` reports are diagnostics with a code `PKG…`.
`pikku-gen explain CODE` prints the same text as this page.

Codes are never given a second meaning.
"""
AUTHORS = """\
## Errors that an author raises

Raised in a step, on purpose; both are imported from `pikku`.
"""


def errors_page() -> str:
    """The text of docs/errors.md."""
    parts = [INTRODUCTION, "## Errors of `pikku`\n"]
    families: list[type[PikkuError]] = [PikkuError, *PikkuError.__subclasses__()]
    for family in families:
        parts += family_section(family)
    parts.append(AUTHORS)
    parts += [f"`{kind.__name__}`: {sentence(kind)}\n" for kind in (TerminalError, RetryError)]
    parts.append(markdown())
    return "\n".join(parts).rstrip() + "\n"


def family_section(family: type[PikkuError]) -> Iterator[str]:
    """A family's heading, then each of its errors."""
    if family is PikkuError:
        yield f"`{family.code}` `PikkuError`: {sentence(family)}\n"
        return
    yield f"### {family.code[:4]}xx: {family.__name__}\n"
    yield f"`{family.code}`: {sentence(family)}{way_out(family)}\n"
    for kind in sorted(declared(family), key=lambda each: each.code):
        yield f"#### {kind.code}: {kind.__name__}\n"
        yield f"{sentence(kind)}{way_out(kind)}\n"


def declared(family: type[PikkuError]) -> list[type[PikkuError]]:
    """The kinds of a family, those of its kinds included, as far as pikku.errors has them."""
    return [
        thing
        for thing in vars(pikku.errors).values()
        if inspect.isclass(thing) and issubclass(thing, family) and thing is not family
    ]


def sentence(kind: type[BaseException]) -> str:
    """A class's docstring as one paragraph."""
    return " ".join((inspect.getdoc(kind) or "").split())


def way_out(kind: type[PikkuError]) -> str:
    """The advice that a class gives whatever the case, as a paragraph of its own."""
    return f"\n\n**Remedy:** {kind.remedy}." if vars(kind).get("remedy") else ""


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it."""
    text = errors_page()
    there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if arguments == ["--check"]:
        difference = difflib.unified_diff(
            there.splitlines(True), text.splitlines(True), "docs/errors.md", "as it should be", n=1
        )
        sys.stdout.writelines(difference)
        return int(there != text)
    if there != text:
        PAGE.write_text(text, encoding="utf-8")
        print(f"{PAGE.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
