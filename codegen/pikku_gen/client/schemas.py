"""JSON Schemas of the copied types: made by pydantic, in a process that has only the copies."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from pikku_gen.model.client import ClientModel
from pikku_gen.render.client import render_probe, render_types

_SECONDS: Final = 120


def describe(client: ClientModel) -> Mapping[str, object] | str:
    """The schemas by function, workflow and signal; or why the types cannot be imported."""
    with tempfile.TemporaryDirectory(prefix="pikku-gen-") as name:
        folder = Path(name)
        files = {f"{client.package}/__init__.py": "", **render_types(client)}
        for path, text in {**files, "probe.py": render_probe(client)}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text.encode())
        try:
            made = subprocess.run(
                [sys.executable, "-B", "-W", "ignore", str(folder / "probe.py")],
                cwd=folder,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"importing them takes longer than {_SECONDS} seconds"
    if made.returncode != 0:
        return _reason(made.stderr.decode(errors="replace"))
    return cast("Mapping[str, object]", json.loads(made.stdout))


def _reason(said: str) -> str:
    """The exception's own words, without the traceback and what only its types say."""
    lines = [line for line in said.splitlines() if line.strip()]
    ends = [line for line in lines if line and not line[0].isspace() and ": " in line]
    return (ends[-1] if ends else "the interpreter died").strip()
