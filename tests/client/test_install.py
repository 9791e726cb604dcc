"""A client is a package of its own: it is built, installed and used where the server is not."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.client.conftest import DEPOT

SCRIPT = """
import asyncio, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("pikku", "pikku_gen", "depot", "depot_pikku"), name
        return None

sys.meta_path.insert(0, Refuse())
sys.path[:0] = sys.argv[1:]

import httpx2
import depot_client
from depot_client.types import Payment

def answer(request):
    assert request.url.path == "/pikku/rpc/ping", request.url
    return httpx2.Response(200, json=42)

async def main():
    transport = httpx2.MockTransport(answer)
    async with depot_client.DepotClient("http://x/pikku", transport=transport) as depot:
        return await depot.rpc.ping()

assert asyncio.run(main()) == 42
transport = httpx2.MockTransport(answer)
with depot_client.SyncDepotClient("http://x/pikku", transport=transport) as depot:
    assert depot.invoke("ping") == 42
print(depot_client.__file__)
"""


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_built_client_works_without_pikku_and_without_the_server(
    project: Path, tmp_path: Path
) -> None:
    client, site = project / "client", tmp_path / "site"
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist")
    run(*build, folder=client)
    (wheel,) = (tmp_path / "dist").iterdir()
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, "--target", site, wheel, folder=tmp_path)

    # Without `site`, nothing but these two folders and Python's own library is on the path, and
    # whatever is installed to be edited is not there.
    libraries = sysconfig.get_path("purelib")
    isolated = (sys.executable, "-I", "-S", "-c", SCRIPT, site, libraries)
    said = run(*isolated, folder=tmp_path)

    assert said.strip() == str(site / "depot_client" / "__init__.py")
    assert wheel.name == "depot_client-1.4.0-py3-none-any.whl"
    assert (site / "depot_client" / "py.typed").exists()


def test_what_a_client_requires_is_written_in_its_metadata() -> None:
    text = (DEPOT / "expected" / "pyproject.toml").read_text(encoding="utf-8")

    assert (
        'dependencies = [\n    "httpx2>=2.16",\n    "pydantic>=2.10,<3",\n'
        '    "typing-extensions>=4.12",\n]\n'
    ) in text
