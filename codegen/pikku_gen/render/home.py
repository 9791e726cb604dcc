"""Where the templates are: the only place that knows their two homes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_IN_WHEEL: Final = Path(__file__).resolve().parents[1] / "templates"
_IN_CHECKOUT: Final = Path(__file__).resolve().parents[3] / "templates"


def templates_dir() -> Path:
    """Inside the installed package, or at the root of a checkout."""
    for candidate in (_IN_WHEEL, _IN_CHECKOUT):
        if (candidate / "package" / "__init__.py.jinja").is_file():
            return candidate
    raise FileNotFoundError(f"no templates in {_IN_WHEEL} or {_IN_CHECKOUT}")
