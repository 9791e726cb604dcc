"""Any `[tool.pikku]` table, and any bytes under the name pyproject.toml, are settings, diagnostics
or a `ConfigurationError`: the generator and the commands never end in a traceback."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.fuzz.kit import ODD_TEXTS, mangled, odd_value, rounds

from pikku._commands.target import PYPROJECT, Target, find_project
from pikku._settings import effective
from pikku.errors import ConfigurationError
from pikku_gen import config
from pikku_gen.cli import diagnostics_text
from pikku_gen.pipeline import run

KEYS = (
    "root",
    "source",
    "output",
    "package",
    "services",
    "store",
    "queue_service",
    "authorize",
    "string_names",
    "client_types",
    "queues",
    "lint",
    "retention",
    "roots",
    "",
    "é",
)
GOOD: dict[str, tuple[Any, ...]] = {
    "root": ("shop", "no_such", "shop_pikku", "../shop", "class", "sho p", "."),
    "source": ([], ["src"], ["."], ["..", "src"], ["/"], ["\x00"], "src", ["x" * 300], [""]),
    "output": ("out", "../out", "shop", ".", "out/\x00", "pyproject.toml", "x" * 300, "o u t"),
    "package": ("shop_pikku", "shop", "été", "None", "x" * 300, "a.b", "shop/x"),
    "services": ("shop:make", "shop.no:no", "shop", ":", "a:b:c", "shop:make()", "..:x", "é:é"),
    "store": ("memory://", "sqlite:///x.db", "redis://[", "sqlite:///\x00", "x"),
    "queue_service": ("store", "none", "stor"),
    "string_names": ("auto", "always", "never", "sometimes"),
    "retention": (
        "30d",
        "1.5h",
        "P1D",
        "PT",
        "1d1d",
        "٣d",
        {"completed": "30d", "failed": "1h"},
        {"completed": 5},
        {"x": "30d"},
        {"": "30d"},
        {},
    ),
}
REQUIRES = (
    ">=3.11",
    "~=3.11",
    "==3.11.*",
    ">3.11",
    "",
    ">=",
    ">=x.y",
    "³.11",
    3,
    None,
    ">=\u0663.\u0661",
)
SOURCE = """
from shop_pikku import Context, pikku_func

@pikku_func
async def charge(ctx: Context, data: int) -> int: ...

def make() -> object: ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project without its pyproject.toml, as the current folder."""
    for path in ("shop", "src/shop"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "__init__.py").write_text(SOURCE, encoding="utf-8")
    for name in ("PIKKU_STORE", "PIKKU_APP", "PIKKU_QUEUE_SERVICE", "PIKKU_RETENTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(value: Any) -> str:
    """A value as TOML, or what stands close to it."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{toml(str(key))} = {toml(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def table(draw: Random) -> dict[str, Any]:
    """Settings, most of them as they may be."""
    made: dict[str, Any] = {}
    for key in draw.sample(KEYS, draw.randint(0, 5)):
        odd = draw.random() < 0.2 or key not in GOOD
        made[key] = odd_value(draw) if odd else draw.choice(GOOD[key])
    return made


def document(draw: Random) -> str:
    """A pyproject.toml with a table of settings in it."""
    lines: list[str] = []
    if draw.random() < 0.6:
        lines += ["[project]", f"requires-python = {toml(draw.choice(REQUIRES))}"]
    lines.append(draw.choice(["[tool.pikku]"] * 9 + ["[[tool.pikku]]", "[tool]", "[tool.'pikku']"]))
    lines += [f"{toml(key)} = {toml(value)}" for key, value in table(draw).items()]
    return "\n".join(lines) + "\n"


def assert_generated_or_said(folder: Path) -> None:
    """The generator ends, with an output or with words."""
    found = config.find_project(folder)
    outcome = run(found or folder)
    assert diagnostics_text(outcome).encode("utf-8", "surrogatepass") or not outcome.failed
    if outcome.misconfigured:
        assert outcome.diagnostics


def assert_read_or_refused(folder: Path) -> None:
    """The commands know the project, or say what is wrong with it."""
    try:
        project = find_project(folder)
        if project is not None:
            assert all(isinstance(root, Path) for root in project.import_roots)
            assert project.app_package is None or project.app_package
    except ConfigurationError as error:
        assert str(error).startswith(error.code)
    try:
        Target(None, None).settings()
    except ConfigurationError as error:
        assert str(error).startswith(error.code)


def test_any_table_of_settings_is_generated_from_or_diagnosed(folder: Path) -> None:
    for draw in rounds(120, "settings"):
        text = document(draw)
        (folder / PYPROJECT).write_bytes(text.encode("utf-8", "replace"))

        assert_generated_or_said(folder)
        assert_read_or_refused(folder)


def test_any_change_of_a_pyproject_is_generated_from_or_diagnosed(folder: Path) -> None:
    for draw in rounds(120, "pyproject"):
        good = (
            '[project]\nname = "shop"\nrequires-python = ">=3.11"\n\n[tool.pikku]\n'
            'root = "shop"\nsource = ["src"]\noutput = "out"\nretention = {completed = "30d"}\n'
        )
        (folder / PYPROJECT).write_bytes(mangled(good.encode(), draw, draw.randint(1, 3)))

        assert_generated_or_said(folder)
        assert_read_or_refused(folder)


def test_any_settings_are_in_effect_or_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in rounds(300, "effective"):
        values = [*ODD_TEXTS, "store", "none", "30d", "completed=30d", "memory://", "failed="]
        keys = ["store", "queue_service", "retention"]
        baked = {key: draw.choice(values) for key in draw.sample([*keys, "stores"], 2)}
        overrides: dict[str, str | None] = {draw.choice(keys): draw.choice([None, *values])}
        variable = draw.choice(["PIKKU_STORE", "PIKKU_QUEUE_SERVICE", "PIKKU_RETENTION"])
        environment = {variable: draw.choice(values).encode("utf-8", "replace").decode()}
        environment = {key: text for key, text in environment.items() if "\0" not in text}

        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", environment)
            try:
                found, origins = effective(baked, overrides, folder)
            except ConfigurationError as error:
                assert str(error).startswith(error.code)
                continue

        assert set(origins.values()) <= {"argument", "environment", "project", "default"}
        assert found.queue_service in ("none", "store")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        f"[tool.pikku]\nroot = {'9' * 5000}\n",
        f"[tool.pikku]\nroot = 'shop'\nsource = ['{'x' * 300}']\n",
        '[tool.pikku]\nroot = "shop"\noutput = "out\\u0000"\n',
        '[project]\nrequires-python = "~=\u00b3.11"\n[tool.pikku]\nroot = "shop"\n',
        f'[project]\nrequires-python = ">={"9" * 5000}"\n[tool.pikku]\nroot = "shop"\n',
    ],
    ids=["deep", "long number", "long name", "null", "digit", "long version"],
)
def test_a_pyproject_beyond_all_bounds_ends_in_words(folder: Path, text: str) -> None:
    (folder / PYPROJECT).write_text(text, encoding="utf-8")

    assert_generated_or_said(folder)
    assert_read_or_refused(folder)


@pytest.mark.parametrize("age", ["1.5h", "٣d", "5", "", "-1d"])
def test_a_retention_that_the_app_would_refuse_is_diagnosed_before(folder: Path, age: str) -> None:
    text = f'[tool.pikku]\nroot = "shop"\nretention = "{age}"\n'
    (folder / PYPROJECT).write_text(text, encoding="utf-8")

    outcome = run(folder)

    assert [found.code for found in outcome.diagnostics] == ["PKG504"]
