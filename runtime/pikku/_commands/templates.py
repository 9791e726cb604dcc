"""The projects that `pikku init` and `pikku demo` write: files with `${name}` in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from string import Template

from pikku.errors import InternalError

SUFFIX = ".template"
PACKAGE = "package"


def template_folder(kind: str) -> Path:
    """The folder of a project's templates: inside the installed `pikku_gen`, or in a checkout.

    Raises:
        InternalError: if the installation lacks them.
    """
    spec = importlib.util.find_spec("pikku_gen")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).resolve().parent
        for home in (package / "templates", package.parents[1] / "templates"):
            if (home / kind / f"pyproject.toml{SUFFIX}").is_file():
                return home / kind
    raise InternalError(f"the templates of `pikku {kind}` are not installed")


def project_files(kind: str, name: str) -> dict[str, str]:
    """The text of each file of a new project called *name*, by its path in the project."""
    folder = template_folder(kind)
    return {
        _path(file.relative_to(folder), name): Template(
            file.read_text(encoding="utf-8")
        ).substitute(name=name)
        for file in sorted(folder.rglob(f"*{SUFFIX}"))
    }


def write_project(files: dict[str, str], folder: Path) -> None:
    """Write *files* into *folder*."""
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")


def _path(template: Path, name: str) -> str:
    parts = [name if part == PACKAGE else part for part in template.parts]
    last = parts[-1].removesuffix(SUFFIX)
    if last.startswith("dot_"):
        last = f".{last.removeprefix('dot_')}"
    elif parts[0] == "tests":  # so that the wheel holds nothing that looks like a test
        last = f"test_{last}"
    parts[-1] = last
    return "/".join(parts)
