"""The start: creates whatever an installation lacks."""

from dataclasses import dataclass, field

from keyosk.credentials.password_hashing import generate
from keyosk.installation import Installation
from keyosk.model import ADMIN, KEYOSK_SCOPES, OPERATOR, Grant, ListQuery, Scope


@dataclass(frozen=True, slots=True)
class FirstAdmin:
    """The account of the first start. ``password`` is ``None`` if the operator chose it."""

    username: str
    password: str | None = field(repr=False)


def prepare(
    installation: Installation, *, admin_username: str, admin_password: str | None
) -> FirstAdmin | None:
    """Create what is missing: a signing key, Keyosk's own service, the first admin.

    For the holder of the set-up lock only. Returns the admin if this call created it. Raises
    ``Invalid`` if the configured name or password breaks a rule, ``WrongSecretKey``,
    ``ConfigurationError``, ``DatabaseDamaged``.
    """
    installation.signing_keys.check()
    if not installation.signing_keys.can_sign():
        installation.signing_keys.ensure()
    installation.signing_keys.refresh()
    installation.rotation.publish_for(OPERATOR, installation.signing_keys.algorithm)
    installation.revocations.note_lifetimes()
    installation.services.ensure_own([Scope(name, text) for name, text in KEYOSK_SCOPES.items()])
    if installation.accounts.page(ListQuery(limit=1)):
        return None
    password = admin_password or generate()
    account = installation.grants.create_account(
        OPERATOR, [Grant(ADMIN)], username=admin_username, password=password
    )
    return FirstAdmin(account.username, None if admin_password else password)
