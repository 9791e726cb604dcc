"""What the client's package requires, in the project's own words where it has some."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final, cast

from pikku_gen.config import PYPROJECT

_ALWAYS: Final = {"httpx2": "httpx2>=2.16", "pydantic": "pydantic>=2.10"}
_OLDEST: Final = 11
_MODERN: Final = 12


@dataclass(frozen=True, slots=True)
class Publisher:
    """What a project's `[project]` table says of its own package."""

    name: str
    version: str
    requires_python: str
    requirements: Mapping[str, str]
    """By normalised name."""


def read_publisher(folder: Path, root: str) -> Publisher:
    """The `[project]` table of the pyproject.toml in `folder`, which may have none."""
    document = tomllib.loads((folder / PYPROJECT).read_text(encoding="utf-8-sig"))
    table = cast("Mapping[str, object]", document.get("project", {}))
    listed = table.get("dependencies")
    requirements: dict[str, str] = {}
    for each in cast("list[object]", listed) if isinstance(listed, list) else []:
        if isinstance(each, str) and "@" not in each:
            requirements[_normal(re.split(r"[^\w.-]", each.strip(), maxsplit=1)[0])] = each.strip()
    return Publisher(
        name=_text(table.get("name")) or root.replace("_", "-"),
        version=_text(table.get("version")) or "0.0.0",
        requires_python=_text(table.get("requires-python")) or ">=3.11",
        requirements=requirements,
    )


def requirements(publisher: Publisher, modules: Iterable[str]) -> tuple[str, ...]:
    """What has to be installed for modules of libraries to be found, and for the client itself."""
    top = {module.partition(".")[0] for module in modules}
    known = packages_distributions()
    found = {name: publisher.requirements.get(name, words) for name, words in _ALWAYS.items()}
    for package in sorted(top - sys.stdlib_module_names - {""}):
        names = sorted({_normal(name) for name in known.get(package, [package])})
        name = next((each for each in names if each in publisher.requirements), names[0])
        found.setdefault(name, publisher.requirements.get(name, name))
    return tuple(words for _, words in sorted(found.items()))


def at_least(requires_python: str, *, modern: bool) -> str:
    """The project's own range of Pythons, or what newer syntax needs."""
    lowest = re.search(r">=\s*3\.(\d+)", requires_python)
    minor = int(lowest[1]) if lowest else _OLDEST
    if modern and minor < _MODERN:
        return f">=3.{_MODERN}"
    return requires_python if minor >= _OLDEST else f">=3.{_OLDEST}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
