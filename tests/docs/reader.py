"""A reader who follows a page to the letter, in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import yaml
from tests.docs.blocks import ROOT, Block

BIN = Path(sys.executable).parent
_INSTALL = re.compile(r"pip install (?P<what>.+)$")
_MADE_ALREADY = ("python3 -m venv .venv", ". .venv/bin/activate")
_OF_THE_OUTER_RUN = ("PYTEST_", "PIKKU_", "SHOP_", "MYPY", "FORCE_COLOR", "VIRTUAL_ENV")


class Reader:
    """Writes the files that a page shows, types its commands, and compares what they print.

    Args:
        folder: where the reader starts.
        generates: run `pikku-gen` unasked when files have changed; otherwise the page has to.
        import_path: folders below *folder* that hold packages, beside *folder* itself.
        stands_for: what the reader has instead of something that pages name, such as a server.
    """

    def __init__(
        self,
        folder: Path,
        *,
        generates: bool = True,
        import_path: Sequence[str] = (),
        stands_for: Mapping[str, str] | None = None,
    ) -> None:
        self.start = self.folder = folder
        self.generates = generates
        self._stands_for = dict(stands_for or {})
        self._dirty = False
        roots = [os.fspath(folder / each) for each in import_path]
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OF_THE_OUTER_RUN)
        }
        self.environment |= {
            "PATH": os.pathsep.join([os.fspath(BIN), os.environ.get("PATH", os.defpath)]),
            "HOME": os.fspath(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if roots:
            self.environment["PYTHONPATH"] = os.pathsep.join(roots)
            self.environment["MYPYPATH"] = os.pathsep.join(roots)

    def follow(self, block: Block) -> None:
        """Do what the block shows."""
        text = block.text
        for named, here in self._stands_for.items():
            text = text.replace(named, here)
        block = replace(block, text=text)
        match block.language:
            case "python" if block.path:
                self.write(block.path, block.text)
            case "python":
                self.generate()
                self.write("snippet.py", block.text)
                self.expect_success("python snippet.py", block.place)
            case "toml":
                tomllib.loads(block.text)
                if block.path:
                    self.write(block.path, block.text)
            case "json":
                json.loads(block.text)
            case "yaml":
                yaml.safe_load(block.text)
            case "sh":
                self.type_script(block)
            case "console":
                self.type_commands(block)
            case "text" | "mermaid":
                pass
            case other:
                raise AssertionError(f"{block.place}: nobody knows what a block of {other!r} is")

    def write(self, path: str, text: str) -> None:
        """Save a file of the project."""
        file = self.folder / path
        assert file.resolve().is_relative_to(self.start), path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self._dirty = True

    def generate(self) -> None:
        """Bring the generated package up to date, if that is nobody's else to do."""
        if self.generates and self._dirty:
            self.expect_success("pikku-gen", "before the block")
        self._dirty = False

    def type_script(self, block: Block) -> None:
        """Execute a block of shell, without what the environment of the tests has already."""
        self.generate()
        lines: list[str] = []
        for line in block.text.splitlines():
            if found := _INSTALL.search(line):
                assert_installable(found["what"], block.place)
            elif line.split("#")[0].strip() not in _MADE_ALREADY:
                lines.append(line)
        # What the script leaves in the background dies with the bash that `kill` was typed into.
        script = "\n".join([*lines, 'pwd >"$HOME/.here"'])
        self.expect_success(script, block.place)
        self.folder = Path((self.start / ".here").read_text(encoding="utf-8").strip())

    def type_commands(self, block: Block) -> None:
        """Type what stands after each `$`, and compare the output with the lines below it."""
        self.generate()
        code = 0
        for command, expected in commands_of(block):
            if command == "echo $?":
                found, code = f"{code}\n", 0
            else:
                assert code == 0, f"{block.place}: the command above `{command}` exits with {code}"
                done = self.run(command)
                found, code = done.stdout, done.returncode
            assert re.fullmatch(pattern_of(expected), cleaned(found)), (
                f"{block.place}: $ {command}\n--- expected\n{expected}--- found\n{found}"
            )
        assert code == 0, f"{block.place}: the last command exits with {code}"

    def expect_success(self, script: str, place: str) -> str:
        """The output of *script*, which has to end with 0."""
        done = self.run(script)
        assert done.returncode == 0, (
            f"{place}: {script}\nexits with {done.returncode}\n{done.stdout}"
        )
        return done.stdout

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run *script* in bash, where the reader stands; its output and complaints in one. What it
        leaves in the background ends with it."""
        with subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        ) as bash:
            try:
                said, _ = bash.communicate(timeout=120)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(bash.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(script, bash.returncode, said)


def commands_of(block: Block) -> list[tuple[str, str]]:
    """Each command of a console block with the output that is shown below it."""
    first, *rest = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first and rest, f"{block.place}: a console block begins with `$ `"
    pairs = [each.partition("\n") for each in rest]
    return [(command, expected) for command, _, expected in pairs]


def pattern_of(expected: str) -> str:
    """What matches *expected*: `…` in a line stands for anything, as a line for any lines."""
    pattern = ""
    for line in cleaned(expected).splitlines():
        any_text = ".*".join(re.escape(part) for part in line.split("…"))
        pattern += r"(?:.*\n)*?" if line.strip() == "…" else any_text + r"\n"
    return pattern


def cleaned(text: str) -> str:
    """*text* without spaces at line ends and empty lines around it."""
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
    return lines + "\n" if lines else ""


def assert_installable(what: str, place: str) -> None:
    """Each requirement of a `pip install` is this project, with extras it has, or installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in shlex.split(what, comments=True):
        found = re.fullmatch(r"([\w.-]+)(?:\[(.+)\])?", requirement)
        assert found, f"{place}: pip install {requirement}"
        name, extras = found.groups()
        if name == project["name"]:
            assert set((extras or "").split(",")) <= {"", *project["optional-dependencies"]}, place
        else:
            assert version(name), place
