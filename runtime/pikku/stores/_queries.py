"""SQL by name: a `queries.sql` is split at its `-- name --` headings."""

from __future__ import annotations

import re
from importlib.resources import files

_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load_queries(package: str) -> dict[str, str]:
    """The statements of *package*'s `queries.sql`, by the names above them."""
    text = (files(package) / "queries.sql").read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
