"""What is not needed is not loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    *("libcst", "jinja2", "redis", "rich", "click", "pydantic", "sqlite3", "asyncio", "logging"),
    *("opentelemetry", "prometheus_client"),
}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["pikku", "shop_pikku"])
def test_an_import_loads_no_generator_no_driver_and_no_event_loop(module: str) -> None:
    assert not loaded_after(f"import {module}") & HEAVY


def test_the_generated_package_imports_nothing_of_the_app() -> None:
    assert "shop" not in loaded_after("import shop_pikku")


@pytest.mark.parametrize("program", ["pikku", "pikku_gen"])
def test_help_loads_no_more_than_click(program: str) -> None:
    statement = f"from {program}.cli import main; main(['--help'], standalone_mode=False)"
    code = f"import sys; {statement}; print('LOADED', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.rpartition("LOADED")[2].split()
    assert not {name.split(".")[0] for name in names} & (
        {"libcst", "jinja2", "redis", "rich", "pydantic", "sqlite3", "asyncio"}
    )
