"""Second factors of an account."""

from typing import Final

from flask import Response, g

from keyosk.errors import Conflict
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.operations import operation
from keyosk.web.responses import nothing
from keyosk.web.schemas import PasswordProof
from keyosk.web.session_schemas import SecondFactorSchema

LISTS = paging.ListOptions(("created_at",), {})

# One instance, because each new one copies all fields (150 us).
_body: Final = SecondFactorSchema().body_of


class SecondFactorsResource(Endpoint):
    """The second factors of an account."""

    @operation(response=SecondFactorSchema, lists=LISTS)
    def get(self, account: str) -> Response:
        """List second factors, without their secrets."""
        factors = self.installation.second_factors
        return self.page(
            lambda list_query: factors.page(account, list_query),
            _body,
            lambda list_query: factors.count(account, list_query),
        )


class SecondFactorResource(Endpoint):
    """One second factor."""

    @operation(body=PasswordProof, optional=True, raises=(Conflict,))
    def delete(self, account: str, factor: str) -> Response:
        """Remove the factor: all console sessions of the account end."""
        self.load()
        self.installation.second_factors.remove(g.caller, account, factor)
        return nothing()
