"""The same bytes and the same words from every supported Python.

`PIKKU_TEST_PYTHONS` names interpreters, separated like PATH, that have libcst, jinja2 and click.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
PYTHONS = [path for path in os.environ.get("PIKKU_TEST_PYTHONS", "").split(os.pathsep) if path]
PROGRAM = """
    import shutil, sys
    from pathlib import Path
    from pikku_gen.cli import diagnostics_text
    from pikku_gen.pipeline import run

    golden, folder = Path(sys.argv[1]), Path(sys.argv[2])
    different = []
    for case in sorted(path for path in golden.iterdir() if path.is_dir()):
        project = folder / case.name
        ignore = shutil.ignore_patterns("expected", "diagnostics.txt", ".pikku")
        shutil.copytree(case, project, symlinks=True, ignore=ignore)
        outcome = run(project)
        if diagnostics_text(outcome) != (case / "diagnostics.txt").read_text("utf-8"):
            different.append(f"{case.name}: diagnostics")
        for wanted in sorted(path for path in (case / "expected").rglob("*") if path.is_file()):
            made = project / Path(outcome.package).parent / wanted.relative_to(case / "expected")
            if not made.is_file() or made.read_bytes() != wanted.read_bytes():
                different.append(f"{case.name}: {wanted.name}")
    print("\\n".join(different))
"""


@pytest.mark.skipif(not PYTHONS, reason="PIKKU_TEST_PYTHONS names no other interpreter")
@pytest.mark.parametrize("python", PYTHONS or ["none"])
def test_every_golden_case_is_the_same_under_another_python(python: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "codegen"), "PYTHONWARNINGS": "error"}
    command = [python, "-c", dedent(PROGRAM), str(ROOT / "tests" / "golden"), str(tmp_path)]

    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (made.returncode, made.stdout.strip()) == (0, ""), made.stderr
