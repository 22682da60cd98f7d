"""Accounts, their passwords and their grants."""

from typing import Any, Final, cast

from flask import Response, g, request
from marshmallow import validate

from keyosk.accounts.accounts import LOOKED_AT
from keyosk.errors import Conflict, InsufficientScope
from keyosk.model import MATCH, Account, AccountChanges, Grant, Kind, ListQuery, matching_name
from keyosk.web import paging
from keyosk.web.endpoint import Endpoint
from keyosk.web.fields import Text, described
from keyosk.web.operations import operation
from keyosk.web.preconditions import wanted_versions
from keyosk.web.responses import nothing, object_response
from keyosk.web.schemas import (
    FUTURE,
    PAST,
    AccountNew,
    AccountPatch,
    AccountSchema,
    GrantsPatch,
    GrantsSchema,
    GrantsShownSchema,
    PasswordChange,
    PasswordProof,
    grants_of,
    names_of,
    shape_of_grants,
)

_READ = "keyosk:accounts:read"
_WRITE = "keyosk:accounts:write"
_GRANT = "keyosk:grants:write"


def _place(account: Account, list_query: ListQuery) -> Any:
    if list_query.sort != MATCH:
        return getattr(account, list_query.sort)
    return matching_name(
        list_query.filters["q"], account.username, display_name=account.display_name
    )


#: Characters of what is searched for inside names: fewer would be found nearly everywhere.
SHORTEST: Final = 3

LISTS = paging.ListOptions(
    ("created_at", "updated_at", "username"),
    {
        "enabled": paging.flag("Only enabled accounts, or only disabled ones."),
        "kind": paging.word("`person` or `machine`.", Kind.MACHINE.value, Kind.PERSON.value),
        "role": paging.text("Only accounts with this role.", "editor"),
        "scope": paging.text("Only accounts with this scope, directly or by a role.", "todo:read"),
        "created_after": paging.moment("Only accounts created after this time.", PAST),
        "last_login_before": paging.moment(
            "Only accounts that have not logged in since this time.", FUTURE
        ),
        "q": paging.text(
            "The beginning of the username or display name. Unless `sort` says otherwise, the "
            "order is that of the names that begin so.",
            "ali",
        ),
        "contains": Text(
            validate=validate.Length(
                min=SHORTEST, max=paging.LONGEST, error=f"Must be {SHORTEST} characters at least."
            ),
            metadata=described(
                f"Text inside the username or display name, {SHORTEST} characters at least. No "
                f"index serves it: a page looks at {LOOKED_AT:,} accounts, so it may be short or "
                "empty although `next` says that there is more.",
                "lice",
            ),
        ),
    },
    orders={"q": MATCH},
    ordering=frozenset({"created_after"}),
    value=_place,
)

# One instance, because each new one copies all fields (150 us).
_SHAPE: Final = AccountSchema()


class AccountsResource(Endpoint):
    """All accounts."""

    def prepare(self, **_: str) -> None:
        """Hash the password of a new account."""
        if request.method != "POST":
            return
        fields = self.load()
        self._grants = grants_of(fields.pop("grants")) if "grants" in fields else []
        # SECURITY: else whoever may make accounts could give away what they hold.
        if self._grants and not g.caller.has(_GRANT):
            raise InsufficientScope(_GRANT)
        if self._grants and g.caller.account_id is not None:
            self.installation.scope_uses.note(g.caller.account_id, (_GRANT,), named=True)
        self._draft = self.installation.accounts.draft(g.caller, **fields)

    @operation(response=AccountSchema, lists=LISTS)
    def get(self) -> Response:
        """List accounts."""
        accounts = self.installation.accounts
        return self.page(accounts.page, _body, accounts.count, horizon=accounts.horizon)

    @operation(
        body=AccountNew, response=AccountSchema, status=201, has_etag=True, raises=(Conflict,)
    )
    def post(self) -> Response:
        """Create an account."""
        account = self.installation.grants.add_account(g.caller, self._grants, self._draft)
        return _response(account, 201, location=f"/accounts/{account.id}")


class AccountResource(Endpoint):
    """One account."""

    @operation(response=AccountSchema, has_etag=True)
    def get(self, account: str) -> Response:
        """Return the account."""
        return _response(self.installation.accounts.get(account))

    @operation(body=AccountPatch, response=AccountSchema, has_etag=True, raises=(Conflict,))
    def patch(self, account: str) -> Response:
        """Change the fields in the merge patch."""
        patch = cast(AccountChanges, self.load())
        return _response(
            self.installation.accounts.change(g.caller, account, patch, version=wanted_versions())
        )

    @operation(has_etag=True)
    def delete(self, account: str) -> Response:
        """Delete the account with its password, API keys, grants and sessions."""
        return nothing(
            self.installation.accounts.remove(g.caller, account, version=wanted_versions())
        )


class PasswordResource(Endpoint):
    """The password of an account, which is never returned."""

    @operation(body=PasswordChange, raises=(Conflict,))
    def put(self, account: str) -> Response:
        """Set the password."""
        password = self.load()["password"]
        return nothing(self.installation.accounts.set_password(g.caller, account, password))

    @operation(body=PasswordProof, optional=True, raises=(Conflict,))
    def delete(self, account: str) -> Response:
        """Delete the password."""
        self.load()
        return nothing(self.installation.accounts.remove_password(g.caller, account))


class GrantsResource(Endpoint):
    """The grants of an account."""

    @operation(response=GrantsShownSchema, has_etag=True)
    def get(self, account: str) -> Response:
        """Return the grants; their entity tag is that of the account."""
        return _grants_response(*self.installation.grants.of(account))

    @operation(body=GrantsSchema, response=GrantsShownSchema, has_etag=True)
    def put(self, account: str) -> Response:
        """Replace all grants."""
        grants = grants_of(self.load())
        return _grants_response(
            *self.installation.grants.replace(g.caller, account, grants, version=wanted_versions())
        )

    @operation(body=GrantsPatch, response=GrantsShownSchema, has_etag=True)
    def patch(self, account: str) -> Response:
        """Add and remove grants."""
        fields = self.load()
        return _grants_response(
            *self.installation.grants.change(
                g.caller,
                account,
                add=grants_of(fields["add"]) if "add" in fields else (),
                remove=names_of(fields["remove"]) if "remove" in fields else (),
                version=wanted_versions(),
            )
        )


def _response(account: Account, status: int = 200, *, location: str | None = None) -> Response:
    return object_response(
        _body(account),
        account.version,
        status,
        location=location,
        effective_at=account.effective_at,
    )


def _body(account: Account) -> dict[str, Any]:
    body = _SHAPE.body_of(account)
    if not g.caller.has(_READ) and not g.caller.has(_WRITE):
        del body["metadata"]  # it never leaves the admin API
    return body


def _grants_response(account: Account, grants: tuple[Grant, ...]) -> Response:
    return object_response(
        shape_of_grants(grants), account.version, effective_at=account.effective_at
    )
