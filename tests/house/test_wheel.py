"""The wheel holds two packages, their data, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_two_packages_and_their_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pikku", "pikku_gen"}
    for needed in (
        "pikku/py.typed",
        "pikku_gen/py.typed",
        "pikku/stores/sqlite/queries.sql",
        "pikku/stores/sqlite/migrations/0001_initial.sql",
        "pikku_gen/templates/package/__init__.py.jinja",
    ):
        assert needed in names
    assert not [name for name in names if "test_" in name or name.endswith(".pyc")]
