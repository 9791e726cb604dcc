"""The build hook: what is built holds the package that fits its code, or nothing is built."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PYPROJECT = """\
[build-system]
requires = ["hatchling", "pikku"]
build-backend = "hatchling.build"

[project]
name = "shop"
version = "1.0"

[tool.hatch.build.hooks.pikku]

[tool.pikku]
root = "shop"
"""
FUNCTIONS = """\
from shop_pikku import Context, pikku_func


@pikku_func
async def ping(ctx: Context) -> {}: ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "functions.py").write_text(FUNCTIONS.format("int"), "utf-8")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, "utf-8")
    return tmp_path


def build(project: Path, target: str) -> subprocess.CompletedProcess[str]:
    """`hatchling build`, without an environment of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", "dist"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def built(project: Path, target: str) -> list[str]:
    """What the built file holds; each name once."""
    done = build(project, target)
    assert done.returncode == 0, done.stderr
    (file,) = (project / "dist").iterdir()
    names = zipfile.ZipFile(file).namelist() if target == "wheel" else tarfile.open(file).getnames()
    assert len(names) == len(set(names))
    return names


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("", id="not named"),
        pytest.param(
            '\n[tool.hatch.build.targets.wheel]\npackages = ["shop", "shop_pikku"]\n', id="named"
        ),
    ],
)
def test_a_wheel_holds_the_generated_package(project: Path, more: str) -> None:
    (project / "pyproject.toml").write_text(PYPROJECT + more, "utf-8")

    names = built(project, "wheel")

    assert {"shop/functions.py", "shop_pikku/__init__.py", "shop_pikku/_rpc.pyi"} <= {*names}


def test_a_wheel_of_a_project_that_lies_in_folders_can_be_imported_by_its_names(
    project: Path,
) -> None:
    (project / "src").mkdir()
    (project / "shop").rename(project / "src" / "shop")
    (project / "pyproject.toml").write_text(PYPROJECT + 'output = "generated"\n', "utf-8")

    names = built(project, "wheel")

    assert {"shop/functions.py", "shop_pikku/__init__.py"} <= {*names}


def test_an_sdist_holds_it_though_version_control_does_not(project: Path) -> None:
    (project / ".git").mkdir()
    (project / ".gitignore").write_text("shop_pikku/\n", "utf-8")

    names = built(project, "sdist")

    assert "shop-1.0/shop_pikku/_rpc.pyi" in names


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_code_that_is_wrong_ends_the_build_with_the_diagnostic(project: Path, target: str) -> None:
    (project / "shop" / "functions.py").write_text(FUNCTIONS.format("Itn"), "utf-8")

    done = build(project, target)

    assert done.returncode == 1
    assert "shop/functions.py:5:33: PKG202 `Itn` leads to no type here\n" in done.stderr
    assert "1 error; nothing was written" in done.stderr
    assert not list((project / "dist").glob("*"))


def test_with_check_a_stale_package_ends_the_build_and_nothing_is_written(project: Path) -> None:
    checked = PYPROJECT.replace("hooks.pikku]", "hooks.pikku]\ncheck = true")
    (project / "pyproject.toml").write_text(checked, "utf-8")

    stale = build(project, "wheel")
    subprocess.run([sys.executable, "-m", "pikku_gen"], cwd=project, check=True)
    fresh = build(project, "wheel")

    assert stale.returncode == 1
    assert "shop_pikku is stale (20 files); run pikku-gen" in stale.stderr
    assert fresh.returncode == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chek = true", "has no setting `chek`, only `check`"),
        ('check = "yes"', "`check` must be true or false, not 'yes'"),
    ],
)
def test_a_setting_that_would_do_nothing_ends_the_build(
    project: Path, line: str, said: str
) -> None:
    (project / "pyproject.toml").write_text(
        PYPROJECT.replace("hooks.pikku]", f"hooks.pikku]\n{line}"), "utf-8"
    )

    done = build(project, "wheel")

    assert done.returncode == 1
    assert said in done.stderr
