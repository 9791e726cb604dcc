"""SQL by name, split at the `-- name --` headings of a `queries.sql`; what a list is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from pikku._records import RunFilter

_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load_queries(package: str) -> dict[str, str]:
    """The statements of *package*'s `queries.sql`, by the names above them."""
    text = (files(package) / "queries.sql").read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def conditions(wanted: RunFilter, spelled: Mapping[str, str]) -> str:
    """What the runs that are *wanted* have to meet, of what is *spelled* for each field of the
    filter, and as `no_job` for a filter without a workflow.

    What is not asked for does not stand there: with `:workflow IS NULL OR ...` no index serves.
    """
    asked = [text for name, text in spelled.items() if getattr(wanted, name, None) is not None]
    if wanted.workflow is None:
        asked.append(spelled["no_job"])
    return " AND ".join(asked)
