"""The command that plays the fault matrix and writes what it counted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.faults.driver import ROOT


def test_the_page_says_by_which_command_what_was_counted(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    words = "--stores sqlite --scenarios 1 --in-process 10 --jobs 1 --seed 7"
    done = subprocess.run(
        [sys.executable, "-m", "bench.reliability", *words.split(), "--out", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    text = page.read_text()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{text}\n"
    assert "python -m bench.reliability --seed 7 --stores sqlite --scenarios 1" in text
    assert re.search(r"^\| SQLite \| 1 \| ", text, re.MULTILINE)
    assert re.search(r"^\| \*\*all\*\* \| \d+ \| [\d,]+ \| [\d,]+ \| 0 \| 0 \|", text, re.MULTILINE)
