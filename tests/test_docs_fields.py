"""The page of the API names each scope of Keyosk, each field, and the status of DELETE."""

import re

import pytest
from marshmallow import Schema

import api_pages
from keyosk.model import KEYOSK_SCOPES, SIGNING_ALGORITHMS, TOKEN_TYPES, CredentialKind
from keyosk.web.api_key_schemas import ApiKeySchema
from keyosk.web.key_schemas import SigningKeySchema
from keyosk.web.schemas import AccountSchema, AuditSchema, GrantSchema, RoleSchema
from keyosk.web.service_schemas import ServiceSchema
from live import Client

API = api_pages.as_one()


def section(heading: str) -> str:
    """What stands under a heading before its first endpoint."""
    text = API[API.index(f"\n## {heading}\n") :]
    return text[4 : text.index("\n### ")]


def test_every_scope_of_keyosk_is_in_the_api_page_and_no_other() -> None:
    table = re.findall(r"^\| `(keyosk:[a-z:]+)` \|", API, re.MULTILINE)
    assert sorted(table) == sorted(KEYOSK_SCOPES)


@pytest.mark.parametrize(
    ("heading", "shape"),
    [
        ("Accounts", AccountSchema),
        ("API keys", ApiKeySchema),
        ("Grants", GrantSchema),
        ("Services", ServiceSchema),
        ("Roles", RoleSchema),
        ("Signing keys", SigningKeySchema),
        ("Audit", AuditSchema),
    ],
)
def test_every_field_of_a_shape_is_in_its_section(heading: str, shape: type[Schema]) -> None:
    text = section(heading)
    # The response to a change may have it besides; docs/explanation/revocation.md tells.
    names = {field.data_key or name for name, field in shape().fields.items()}
    for name in names - {"effective_at_latest"}:
        assert f"`{name}`" in text, f"{heading}: {name}"


def test_every_word_that_a_service_may_have_is_in_its_section() -> None:
    text = section("Services")
    words = (*SIGNING_ALGORITHMS, *TOKEN_TYPES, *CredentialKind)
    for word in words:
        assert f"`{word}`" in text, word
    assert "not exist yet" not in API


def test_a_delete_answers_204_but_where_the_page_says_otherwise(admin: Client) -> None:
    paths = admin.get("/openapi.json").json()["paths"]
    others = {
        path
        for path, operations in paths.items()
        if "delete" in operations and "204" not in operations["delete"]["responses"]
    }
    assert others == {"/signing-keys/{kid}", "/accounts/{account}/tokens"}
    assert "for a signing key" in API
    assert "for the tokens of an account" in API
