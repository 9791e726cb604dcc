"""The schemas beside a client are what public validators take, and what its values fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.codegen.test_golden import GOLDEN

DEPOT = GOLDEN / "client_depot" / "expected"


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_openapi_is_valid_by_the_public_validator() -> None:
    OpenAPIV31SpecValidator(document(DEPOT / "openapi.json")).validate()


def test_the_schemas_are_valid_by_their_metaschema() -> None:
    schemas = document(DEPOT / "schemas.json")

    Draft202012Validator.check_schema(schemas)
    for schema in schemas["$defs"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("rpc.stock.input", ["A1"], True),
        ("rpc.stock.input", [1], False),
        (
            "rpc.stock.output",
            {"items": [{"articleNumber": "A1", "quantity": 1, "unit": "pc"}]},
            True,
        ),
        ("rpc.stock.output", {"items": [{"sku": "A1"}]}, False),
        ("signal.paid.payload", {"amount": "19.90", "method": "cash"}, True),
        ("signal.paid.payload", {"amount": "19.90", "method": "cheque"}, False),
        ("workflow.count.input", None, True),
        ("workflow.count.output", 3, True),
    ],
)
def test_values_fit_their_schema_and_others_do_not(name: str, value: Any, *, fits: bool) -> None:
    schemas = document(DEPOT / "schemas.json")
    validator = Draft202012Validator({**schemas, "$ref": f"#/$defs/{name}"})

    assert validator.is_valid(value) is fits


def test_openapi_has_a_route_for_everything_that_is_exposed_and_nothing_else() -> None:
    paths = document(DEPOT / "openapi.json")["paths"]

    assert sorted(paths) == [
        "/rpc/all-lines",
        "/rpc/ping",
        "/rpc/price",
        "/rpc/same",
        "/rpc/stock",
        "/runs/{id}",
        "/runs/{id}/approvals/{step}",
        "/runs/{id}/cancel",
        "/runs/{id}/events",
        "/runs/{id}/result",
        "/runs/{id}/signals/go-on",
        "/runs/{id}/signals/paid",
        "/workflows/broken/runs",
        "/workflows/count/runs",
        "/workflows/order/runs",
    ]
