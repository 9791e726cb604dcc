"""Imports point down: each row may import the rows below it, and nothing beside or above.

Imports that only name a type, and those that run late inside a function, are not counted.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Top to bottom. The longest matching prefix decides where a module lives; the modules of one prefix
# may import one another, those that merely share a row may not.
ROWS: list[tuple[str, ...]] = [
    ("pikku_gen.__main__", "pikku_gen.hatch_plugin"),
    ("pikku_gen.cli",),
    ("pikku_gen.diff", "pikku_gen.client"),
    ("pikku_gen.fixing", "pikku_gen.sarif", "pikku_gen.watching"),
    ("pikku_gen.drawing", "pikku_gen.pipeline", "pikku_gen"),
    ("pikku_gen.reading",),
    ("pikku_gen.cache",),
    ("pikku_gen.scan", "pikku_gen.rules", "pikku_gen.render", "pikku_gen.write"),
    ("pikku_gen.link",),
    ("pikku_gen.inputs",),
    ("pikku_gen.project",),
    ("pikku_gen.config",),
    ("pikku_gen.diagnostics",),
    ("pikku_gen.model",),
    ("pikku_gen.codes",),
    ("pikku.cli",),
    ("pikku._commands",),
    ("pikku.testing",),
    ("pikku",),
    ("pikku._sync", "pikku._process_child"),
    ("pikku._http",),
    ("pikku._app",),
    ("pikku._callers",),
    ("pikku._job_control",),
    ("pikku._control", "pikku._recorder", "pikku._schedules"),
    ("pikku._exported", "pikku._repair", "pikku._verify"),
    ("pikku._engine",),
    ("pikku._live",),
    ("pikku._jobs", "pikku._intake", "pikku._results", "pikku._progress"),
    ("pikku._session", "pikku._committer", "pikku._bodies"),
    ("pikku._documents",),
    ("pikku._history", "pikku._diagnosis", "pikku._waits"),
    ("pikku._run",),
    ("pikku._processes",),
    ("pikku._tracing", "pikku._metrics", "pikku._narration"),
    ("pikku._settings", "pikku._logging", "pikku._contexts"),
    ("pikku._workflow",),
    ("pikku._saga", "pikku._fan_out"),
    ("pikku._functions",),
    ("pikku._access", "pikku._answers", "pikku._calls", "pikku._queues"),
    ("pikku._signals", "pikku._decisions"),
    ("pikku._replay",),
    ("pikku._loop",),
    (
        "pikku.stores.memory",
        "pikku.stores.sqlite",
        "pikku.stores.redis",
        "pikku.stores.postgres",
        "pikku.stores.sealed",
    ),
    ("pikku.stores.transitions", "pikku.stores._queries", "pikku.stores._rows"),
    ("pikku.stores",),
    ("pikku.stores.base",),
    ("pikku.stores.lanes",),
    ("pikku._codec", "pikku._retry", "pikku._ticks"),
    ("pikku._clock", "pikku._cron", "pikku._ids", "pikku._durations"),
    ("pikku._records",),
    ("pikku._error_info",),
    ("pikku._telemetry", "pikku._redaction"),
    ("pikku._payloads",),
    ("pikku.errors",),
]

LIBRARIES = {
    "libcst": ("pikku_gen.scan",),
    "jinja2": ("pikku_gen.render",),
    "cronsim": ("pikku._cron", "pikku._ticks", "pikku_gen.scan"),
    "sqlite3": ("pikku.stores.sqlite", "pikku._commands"),
    "redis": ("pikku.stores.redis",),
    "psycopg": ("pikku.stores.postgres",),
    "hatchling": ("pikku_gen.hatch_plugin",),
    "watchfiles": ("pikku_gen.watching",),
    "starlette": ("pikku._http",),
    "sse_starlette": ("pikku._http",),
    "uvicorn": ("pikku._http",),
    "opentelemetry": ("pikku._tracing",),
    "prometheus_client": ("pikku._metrics",),
    "click": ("pikku.cli", "pikku._commands", "pikku_gen.cli"),
    "rich": ("pikku.cli", "pikku._commands", "pikku_gen.cli"),
}


def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder, package in (("runtime", "pikku"), ("codegen", "pikku_gen")):
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, late: bool) -> set[str]:
    """The modules that a file imports; with *late*, also inside functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not late:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def row_of(module: str) -> tuple[int, str]:
    matches = [
        (len(prefix), -index, prefix)
        for index, row in enumerate(ROWS)
        for prefix in row
        if module == prefix or (module.startswith(prefix + ".") and prefix not in BARE)
    ]
    assert matches, f"{module} has no row: give it a place in tests/house/test_layers.py"
    _, index, prefix = max(matches)
    return -index, prefix


BARE = {"pikku", "pikku_gen", "pikku.stores"}


def test_imports_point_down() -> None:
    wrong: list[str] = []
    for module, path in modules().items():
        row, prefix = row_of(module)
        for target in imports(path, late=False):
            if not target.startswith(("pikku.", "pikku_gen")) and target != "pikku":
                continue
            below, found = row_of(target)
            if found == prefix:
                continue
            if below < row:
                wrong.append(f"{module} reaches up to {target}")
            elif below == row:
                wrong.append(f"{module} reaches aside to {target}")
    assert not wrong, "\n".join(wrong)


def test_the_runtime_never_imports_the_generator() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in modules().items()
        if module.split(".")[0] == "pikku"
        for target in imports(path, late=True)
        if target.split(".")[0] == "pikku_gen"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_generator_uses_only_the_public_runtime() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in modules().items()
        if module.split(".")[0] == "pikku_gen"
        for target in imports(path, late=True)
        if target.startswith("pikku.") and any(p.startswith("_") for p in target.split("."))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_library_is_imported_in_its_own_room_only() -> None:
    wrong: list[str] = []
    for module, path in modules().items():
        for target in imports(path, late=True):
            rooms = LIBRARIES.get(target.split(".")[0])
            if rooms is not None and not module.startswith(rooms):
                wrong.append(f"{module} imports {target}; only {', '.join(rooms)} may")
    assert not wrong, "\n".join(wrong)


def test_a_top_folder_is_a_room_and_never_a_package() -> None:
    for room in ("runtime", "codegen", "templates", "sample_app", "generated", "tests"):
        assert not (ROOT / room / "__init__.py").exists(), f"{room}/ must not be importable"
    assert not list((ROOT / "templates").rglob("*.py")), "templates/ holds no Python"
