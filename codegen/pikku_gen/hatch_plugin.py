"""The build hook `pikku` of hatchling: no wheel or sdist without the package that fits its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.plugin import hookimpl

from pikku_gen.cli import diagnostics_text, summary
from pikku_gen.pipeline import run

_OF_HATCHLING: Final = frozenset(
    {"dependencies", "enable-by-default", "require-runtime-dependencies"}
    | {"require-runtime-features"}
)
_TABLE: Final = "[tool.hatch.build.hooks.pikku]"


class GeneratedPackage(BuildHookInterface[BuilderConfig]):
    """Brings the generated package up to date before a build, and has it built in."""

    PLUGIN_NAME = "pikku"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generates, or with `check = true` only looks; ends the build with what is wrong."""
        check = self._check()
        folder = Path(self.root).resolve()
        outcome = run(folder, check=check)
        said = diagnostics_text(outcome) + summary(outcome, check=check)
        if outcome.failed or (check and outcome.changes.stale):
            self.app.abort(said)
        self.app.display_info(said)
        if version != "editable":
            package = folder / outcome.package
            whole = self.target_name == "wheel" or Path(outcome.package).is_absolute()
            inside = package.name if whole else outcome.package
            # File by file: hatchling then leaves out what it would have taken of them by itself.
            for file in sorted(package.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    way = file.relative_to(package).as_posix()
                    build_data["force_include"][str(file)] = f"{inside}/{way}"

    def _check(self) -> bool:
        for key in self.config.keys() - _OF_HATCHLING - {"check"}:
            self.app.abort(f"pikku-gen: {_TABLE} has no setting `{key}`, only `check`")
        check: object = self.config.get("check", False)
        if not isinstance(check, bool):
            self.app.abort(f"pikku-gen: {_TABLE} `check` must be true or false, not {check!r}")
        return check is True


@hookimpl
def hatch_register_build_hook() -> type[GeneratedPackage]:
    """The hook, for hatchling to find."""
    return GeneratedPackage
