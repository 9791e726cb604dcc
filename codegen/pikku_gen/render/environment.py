"""The strict template environment."""

from __future__ import annotations

import json
from functools import cache
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pikku_gen.render.home import templates_dir

_STRINGS: Final = json.JSONEncoder(ensure_ascii=False)


@cache
def environment() -> Environment:
    """Undefined names are errors; blocks leave no blank lines."""
    made = Environment(
        loader=FileSystemLoader(templates_dir()),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["literal"] = literal
    return made


def literal(text: str) -> str:
    """A string as Python source, in double quotes."""
    return _STRINGS.encode(text)
