"""Each code is unique, documented, and used."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pikku.errors

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [
    thing
    for thing in vars(pikku.errors).values()
    if inspect.isclass(thing) and issubclass(thing, pikku.errors.PikkuError)
]


def test_no_two_errors_share_a_code() -> None:
    counts = Counter(thing.code for thing in CLASSES)
    assert not [code for code, count in counts.items() if count > 1]


def test_every_error_is_raised_somewhere() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "runtime" / "pikku").rglob("*.py")
        if path.name != "errors.py"
    )
    families = {thing for thing in CLASSES if thing.__subclasses__()}
    unused = [
        thing.__name__
        for thing in CLASSES
        if thing not in families and not re.search(rf"\b{thing.__name__}\b", source)
    ]
    assert not unused


def test_the_error_pages_are_what_the_sources_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, f"run `make generate`:\n{done.stdout}{done.stderr}"
