"""What a change may name is the same in every layer: in the schemas and in the domain."""

from typing import Any

from keyosk.accounts import accounts
from keyosk.model import AccountChanges, AccountFields, ApiKeyChanges, RoleChanges, ServiceChanges
from keyosk.web.api_key_schemas import ApiKeyPatch
from keyosk.web.schemas import AccountPatch, RolePatch
from keyosk.web.service_schemas import ServicePatch
from tables import table


@table(
    ("schema", "changes"),
    [
        (AccountPatch, AccountChanges),
        (ApiKeyPatch, ApiKeyChanges),
        (RolePatch, RoleChanges),
        (ServicePatch, ServiceChanges),
    ],
)
def test_a_patch_and_its_schema_name_the_same_fields(schema: Any, changes: Any) -> None:
    # The proof of one's own password is for the gate, no field of the object.
    assert schema().fields.keys() - {"current_password"} == changes.__annotations__.keys()


def test_what_the_audit_log_tells_of_an_account_is_all_that_may_be_changed() -> None:
    assert set(accounts.FIELDS) == AccountChanges.__annotations__.keys()
    assert set(accounts.FIELDS) == AccountFields.__annotations__.keys()
