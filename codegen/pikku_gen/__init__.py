"""The generator of pikku: reads decorated functions without importing them, writes a typed package.

`generate` and `check` are what `pikku-gen` does, for scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pikku_gen.pipeline import Outcome

__all__ = ["check", "generate"]


def generate(folder: str | Path) -> Outcome:
    """Brings the generated package of the project in `folder` up to date."""
    from pikku_gen.pipeline import run

    return run(Path(folder).resolve())


def check(folder: str | Path) -> Outcome:
    """Says what `generate` would change, and changes nothing."""
    from pikku_gen.pipeline import run

    return run(Path(folder).resolve(), check=True)
