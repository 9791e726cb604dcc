"""The OpenAPI document says what is there, and what is there keeps to it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.http.kit import Desk, serving

from pikku._http.openapi import openapi
from shop_pikku import app as shop


@pytest.fixture
def described() -> dict[str, Any]:
    return openapi(Desk(hook=True).app)


def test_the_document_is_valid(described: dict[str, Any]) -> None:
    shop.register()

    OpenAPIV31SpecValidator(described).validate()
    OpenAPIV31SpecValidator(openapi(shop)).validate()


def test_it_has_what_is_exposed_and_nothing_else(described: dict[str, Any]) -> None:
    functions = [path for path in described["paths"] if path.startswith("/rpc/")]
    workflows = [path for path in described["paths"] if path.startswith("/workflows/")]

    assert functions == [
        *("/rpc/begin", "/rpc/echo", "/rpc/fail", "/rpc/guarded", "/rpc/outer", "/rpc/ping"),
        *("/rpc/total", "/rpc/with%2Fslash%20and%20%C3%BC"),
    ]
    assert "/workflows/internal/runs" not in workflows
    assert len(workflows) == 7
    assert "inner" not in str(described)


def test_types_are_those_of_the_functions(described: dict[str, Any]) -> None:
    call = described["paths"]["/rpc/total"]["post"]
    schema = call["requestBody"]["content"]["application/json"]["schema"]
    order = described["components"]["schemas"]["Line.Input"]

    assert schema["required"] == ["order_id", "lines", "total"]
    assert order["properties"]["quantity"]["minimum"] == 1
    assert "requestBody" not in described["paths"]["/rpc/ping"]["post"]
    assert described["security"] == [{"bearer": []}]


async def test_it_is_served() -> None:
    desk = Desk()
    async with desk.open() as client:
        answer = await client.get("/openapi.json")

        assert answer.status_code == 200
        assert answer.json() == openapi(desk.app)
        assert answer.json()["servers"] == [{"url": "/"}]
        assert (await client.post("/openapi.json")).status_code == 405


async def test_it_says_where_the_app_is_mounted() -> None:
    desk = Desk()
    web = Starlette(routes=[Mount("/shop/pikku", desk.app.asgi())])
    async with (
        desk.app.open(store="memory://"),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(web), base_url="http://localhost/shop/pikku"
        ) as client,
    ):
        assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/shop/pikku"}]
        assert (await client.post("/rpc/with%2Fslash%20and%20%C3%BC")).json() == 1


async def test_what_is_sent_at_random_is_answered_as_the_document_says(tmp_path: Path) -> None:
    desk = Desk()
    for name in ("fail", "total", "guarded"):  # those raise on purpose, or have a Decimal
        desk.registry.functions[name].expose = False
    desk.registry.workflows["order"].expose = False
    options = ["-n", "5", "--phases", "coverage,fuzzing", "--seed", "7", "--no-color"]
    options += ["--exclude-path-regex", "events|result", "--suppress-health-check", "all"]
    async with desk.app.open(store="memory://"), serving(desk.app) as url:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *options),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await program.communicate()
        desk.gate.set()

    assert program.returncode == 0, said.decode()
