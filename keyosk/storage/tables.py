"""The schema as peewee models, one per table, bound to no database.

The newest migration leaves the database in exactly this shape; a test compares the two.
"""

from typing import Any

from peewee import (
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


class Int8Field(BigIntegerField):
    """A 64-bit integer.

    On SQLite, unlike INTEGER, it is not an alias of the rowid as a primary key, so that an index
    can serve a row value of another column and this one.
    """

    field_type = "INT8"


class JsonField(TextField):
    """Text that is a JSON document: a list or an object."""

    def __init__(self, shape: type, **options: Any) -> None:
        """Set the ``shape``: ``list`` or ``dict``."""
        super().__init__(**options)
        self.shape = shape


class Table(Model):
    """The base of all tables: a table has the name of its class, in snake case."""

    class Meta:
        legacy_table_names = False


class Versioned(Table):
    """An object with its own URL: its id, its times and its version."""

    id = CharField(36, primary_key=True)
    created_at = BigIntegerField()
    updated_at = BigIntegerField()
    version = BigIntegerField()


class Account(Versioned):
    username = CharField(unique=True)
    kind = CharField(16)
    display_name = TextField()
    display_key = TextField()
    enabled = BooleanField()
    claims = JsonField(dict)
    metadata = JsonField(dict)
    expires_at = BigIntegerField(null=True)
    last_login_at = BigIntegerField(null=True)
    tokens_from = BigIntegerField(null=True)


class Password(Table):
    account = ForeignKeyField(Account, primary_key=True, on_delete="CASCADE")
    id = CharField(36, unique=True)
    hash = TextField()
    changed_at = BigIntegerField()


class ApiKey(Versioned):
    # The indexes of lists begin with it.
    account = ForeignKeyField(Account, index=False, on_delete="CASCADE")
    name = TextField()
    description = TextField()
    digest = BlobField(unique=True)
    prefix = CharField(16)
    scopes = JsonField(list, null=True)
    networks = JsonField(list, null=True)
    enabled = BooleanField()
    expires_at = BigIntegerField(null=True)
    last_used_at = BigIntegerField(null=True)
    successor = CharField(36, null=True)
    tokens_from = BigIntegerField(null=True)


class Service(Versioned):
    name = CharField(unique=True)
    audience = CharField(unique=True)
    title = TextField()
    description = TextField()
    enabled = BooleanField()
    on_request_only = BooleanField()
    token_lifetime = IntegerField(null=True)
    contact = TextField(default="")
    signing_algorithm = CharField(16, null=True)
    typ = CharField(16, null=True)
    accepts = CharField(32)
    refresh_allowed = BooleanField()
    refresh_lifetime = IntegerField(null=True)
    claims = JsonField(list)
    account = ForeignKeyField(Account, null=True, on_delete="SET NULL")
    audiences = JsonField(list, null=True)
    cors_preflight = BooleanField(null=True)
    registry_version = IntegerField(null=True)


class ServiceIdentifier(Table):
    """The service of a name or audience, by ``namespace_key``; its id is an identifier, too."""

    key = CharField(primary_key=True)
    service = ForeignKeyField(Service, on_delete="CASCADE")


class Exchange(Table):
    """A service's permission to exchange its tokens for tokens for ``target``."""

    # The primary key begins with it.
    service = ForeignKeyField(Service, index=False, on_delete="CASCADE")
    target = ForeignKeyField(Service, on_delete="CASCADE")
    scopes = JsonField(list)

    class Meta:
        primary_key = CompositeKey("service", "target")


class Verification(Table):
    """The result of the last test of a service with bad tokens."""

    service = ForeignKeyField(Service, primary_key=True, on_delete="CASCADE")
    verified_at = BigIntegerField()
    verified_by = TextField()
    url = TextField()
    passed = BooleanField()
    verdict = TextField()
    failed = JsonField(list)


class Scope(Table):
    name = CharField(primary_key=True)
    service = ForeignKeyField(Service, on_delete="CASCADE")
    description = TextField()


class Role(Versioned):
    name = CharField(unique=True)
    description = TextField()


class RoleScope(Table):
    # The primary key begins with it.
    role = ForeignKeyField(Role, index=False, on_delete="CASCADE")
    scope = ForeignKeyField(Scope, on_delete="CASCADE")
    added_at = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("role", "scope")


class Grant(Table):
    """The grant of a scope or a role to an account.

    Its indexes find the grants of an account, and the accounts of a grant in the order of ids.
    """

    account = ForeignKeyField(Account, index=False, on_delete="CASCADE")
    scope = ForeignKeyField(Scope, null=True, index=False, on_delete="CASCADE")
    role = ForeignKeyField(Role, null=True, index=False, on_delete="CASCADE")
    credential = CharField(16, null=True)
    until = BigIntegerField(null=True)
    granted_at = BigIntegerField()

    class Meta:
        indexes: Any = ((("account", "scope"), True), (("role", "account"), True))


class SigningKey(Table):
    kid = CharField(43, primary_key=True)
    algorithm = CharField(16)
    state = CharField(16)
    public = TextField()
    sealed = BlobField()
    published_at = BigIntegerField()
    active_from = BigIntegerField(null=True)
    retired_at = BigIntegerField(null=True)
    created_at = BigIntegerField()
    gone_at = BigIntegerField(null=True)
    when_seen = BooleanField(default=False)


class KeyFetch(Table):
    """The keys that a service last fetched, if it identified itself."""

    service = ForeignKeyField(Service, primary_key=True, on_delete="CASCADE")
    kids = JsonField(list)
    seen_at = BigIntegerField()

    class Meta:
        table_name = "key_sight"  # the name in the migration


class Revocation(Table):
    """A published revocation; the row with the highest ``sequence`` is never removed."""

    sequence = BigIntegerField(primary_key=True)
    claim = CharField(8)
    value = CharField(255)
    issued_before = BigIntegerField(null=True)
    expires = BigIntegerField(index=True)
    #: The account of a single token, or of an entry that replaced several.
    account = CharField(36, null=True, index=True)
    #: The latest ``iat`` that a single token may have.
    issued_at = BigIntegerField(null=True)

    class Meta:
        indexes: Any = ((("value", "claim"), False),)


class TrustedIssuer(Versioned):
    """A platform whose tokens log workloads in."""

    name = CharField(unique=True)
    description = TextField()
    issuer = CharField(512)
    audience = CharField()
    preset = CharField(32, null=True)
    jwks_uri = TextField(null=True)
    keys = JsonField(dict, null=True)
    algorithms = JsonField(list)
    max_lifetime = BigIntegerField()
    required_claims = JsonField(list)
    prefix_claims = JsonField(list)
    allow_private = BooleanField()
    enabled = BooleanField()

    class Meta:
        indexes: Any = ((("issuer", "audience"), True),)


class WorkloadRule(Versioned):
    """Which tokens of an issuer log in as an account."""

    # The indexes of lists begin with it.
    issuer = ForeignKeyField(TrustedIssuer, index=False, on_delete="CASCADE")
    name = CharField()
    description = TextField()
    claims = JsonField(dict)
    account = ForeignKeyField(Account, on_delete="CASCADE")
    scopes = JsonField(list, null=True)
    once = BooleanField()
    enabled = BooleanField()
    expires_at = BigIntegerField(null=True)
    last_used_at = BigIntegerField(null=True)
    tokens_from = BigIntegerField(null=True)

    class Meta:
        indexes: Any = ((("issuer", "name"), True),)


class FetchedKeys(Table):
    """The key set that an issuer last published, for all nodes.

    ``tried_at``: the start of the last fetch. ``fault``: why that failed.
    """

    issuer = ForeignKeyField(TrustedIssuer, primary_key=True, on_delete="CASCADE")
    document = TextField(null=True)
    fetched_at = BigIntegerField(null=True)
    fresh_until = BigIntegerField(null=True)
    tried_at = BigIntegerField()
    fault = TextField(null=True)


class UsedAssertion(Table):
    """A token that must not log in a second time; ``digest``: that of its issuer and ``jti``."""

    digest = BlobField(primary_key=True)
    expires_at = BigIntegerField(index=True)


class Session(Table):
    """A refresh session; ``digest`` is of its current refresh token.

    ``tokens``: the access tokens that came from it, as [jti, exp]. It refers to the password or API
    key that began it; null once that is deleted or replaced.
    """

    id = CharField(36, primary_key=True)
    account = ForeignKeyField(Account, on_delete="CASCADE")
    password_id = CharField(36, null=True)
    api_key = ForeignKeyField(ApiKey, null=True, on_delete="CASCADE")
    audiences = JsonField(list)
    scopes = JsonField(list)
    digest = BlobField()
    tokens = JsonField(dict)
    address = TextField(null=True)
    authenticated_at = BigIntegerField()
    created_at = BigIntegerField()
    rotated_at = BigIntegerField()
    expires_at = BigIntegerField(index=True)


class ConsoleSession(Table):
    """A login to the console; ``digest`` is of the secret in its cookie, ``notice`` is JSON.

    It refers to the password that began it; null once that is replaced.
    """

    id = CharField(36, primary_key=True)
    account = ForeignKeyField(Account, on_delete="CASCADE")
    password_id = CharField(36)
    digest = BlobField(unique=True)
    address = TextField(null=True)
    agent = TextField()
    created_at = BigIntegerField()
    seen_at = BigIntegerField()
    confirmed_at = BigIntegerField()
    expires_at = BigIntegerField(index=True)
    notice = JsonField(dict)
    amr = TextField(null=True)
    challenge = BlobField(null=True)
    challenged_at = BigIntegerField(null=True)


class PendingLogin(Table):
    """A login to the console that lacks its second factor; ``digest`` as of a session."""

    digest = BlobField(primary_key=True)
    account = ForeignKeyField(Account, on_delete="CASCADE")
    password_id = CharField(36)
    created_at = BigIntegerField()
    expires_at = BigIntegerField(index=True)
    challenge = BlobField(null=True)


class SecondFactor(Table):
    """``sealed``: the secret of an authenticator app; ``last_step``: of its last code.

    The last three columns are of a passkey.
    """

    id = CharField(36, primary_key=True)
    account = ForeignKeyField(Account, on_delete="CASCADE")
    kind = CharField(16)
    name = TextField()
    created_at = BigIntegerField()
    last_used_at = BigIntegerField(null=True)
    sealed = BlobField(null=True)
    last_step = BigIntegerField(null=True)
    credential_id = BlobField(null=True, unique=True)
    public_key = BlobField(null=True)
    sign_count = BigIntegerField(null=True)


class RecoveryCode(Table):
    """The hash of an unused recovery code."""

    digest = BlobField(primary_key=True)
    factor = ForeignKeyField(SecondFactor, on_delete="CASCADE")


class Lifetime(Table):
    """A lifetime of tokens in seconds, and until when it was in use (null: still)."""

    seconds = BigIntegerField(primary_key=True)
    ended_at = BigIntegerField(null=True)


class AuditColumns(Table):
    """The columns of a row of the audit log."""

    time = BigIntegerField()
    actor = CharField(36, null=True)
    actor_name = TextField()
    credential = CharField(36, null=True)
    address = TextField(null=True)
    request_id = CharField(36, null=True)
    action = CharField(64)
    target = TextField(null=True)
    before = TextField(null=True)
    after = TextField(null=True)
    outcome = CharField(32)
    via = CharField(16, null=True)


class WaitingAuditRow(AuditColumns):
    """A row that was written and is not sealed yet; sealing takes them in the order of ``id``."""

    id = CharField(36, primary_key=True)


class AuditRow(AuditColumns):
    """A sealed row: it has its place in the chain and its hash, and is never changed."""

    sequence = Int8Field(primary_key=True)
    id = CharField(36)
    hash = BlobField()


class Checkpoint(Table):
    """A signed state of the audit chain; the last one before a pruned part stays."""

    sequence = BigIntegerField(primary_key=True)
    hash = CharField(64)
    time = BigIntegerField()
    signature = TextField()


class LoginFailure(Table):
    """A count of failed logins; ``account`` is empty for usernames without an account."""

    account = CharField(36)
    address = CharField(64)
    minute = BigIntegerField()
    count = IntegerField()
    throttled = BooleanField(default=False)

    class Meta:
        primary_key = CompositeKey("account", "address", "minute")


class Refusal(Table):
    """A count of an account's refused requests in a minute; ``sample``: the first one, JSON."""

    account = CharField(36)
    credential = CharField(36)
    action = CharField(64)
    minute = BigIntegerField()
    count = IntegerField()
    sample = JsonField(dict)

    class Meta:
        primary_key = CompositeKey("account", "credential", "action", "minute")


class Allowance(Table):
    """The used part of an allowance of attempts; times in milliseconds (``storage.throttling``)."""

    key = CharField(64, primary_key=True)
    until = BigIntegerField(index=True)
    step = BigIntegerField()
    room = BigIntegerField()
    counted_at = BigIntegerField(default=0)
    latest_at = BigIntegerField(default=0)


class KnownSource(Table):
    """A source from which an account has logged in by password."""

    # The primary key begins with it.
    account = ForeignKeyField(Account, index=False, on_delete="CASCADE")
    source = CharField(64)
    seen_at = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("account", "source")


class Idempotency(Table):
    """The response to a POST with an Idempotency-Key."""

    caller = CharField(80)
    key = CharField(255)
    fingerprint = CharField(64)
    status = IntegerField()
    headers = JsonField(dict)
    body = TextField()
    sealed = BlobField(null=True)
    created_at = BigIntegerField(index=True)

    class Meta:
        primary_key = CompositeKey("caller", "key")


class Activity(Table):
    """A count of a minute over all nodes, by a kind of ``keyosk.activity``."""

    minute = BigIntegerField()
    kind = CharField(64)
    count = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("minute", "kind")


class ScopeUse(Table):
    """The last days (since 1970) on which a token of an account had a scope.

    ``named_on``: on which a request named it, 0 for never.
    """

    # The primary key begins with it.
    account = ForeignKeyField(Account, index=False, on_delete="CASCADE")
    scope = ForeignKeyField(Scope, on_delete="CASCADE")
    issued_on = BigIntegerField()
    named_on = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("account", "scope")


class Node(Table):
    """A running Keyosk, or one that ran recently."""

    name = CharField(primary_key=True)
    version = CharField(64)
    started_at = BigIntegerField()
    seen_at = BigIntegerField()


class ManifestRecord(Table):
    """An object that a manifest created; ``scope`` or ``role``: a grant of the account.

    No foreign key, because the object may be in one of three tables; ids are never reused.
    """

    object_id = CharField(36)
    scope = CharField()
    role = CharField()
    owner = CharField(64)

    class Meta:
        table_name = "declared"  # the name in the migration
        primary_key = CompositeKey("object_id", "scope", "role")


ALL = (
    Account,
    Password,
    ApiKey,
    Service,
    ServiceIdentifier,
    Exchange,
    Verification,
    Scope,
    Role,
    RoleScope,
    Grant,
    SigningKey,
    KeyFetch,
    Revocation,
    TrustedIssuer,
    WorkloadRule,
    FetchedKeys,
    UsedAssertion,
    Session,
    ConsoleSession,
    PendingLogin,
    SecondFactor,
    RecoveryCode,
    Lifetime,
    WaitingAuditRow,
    AuditRow,
    Checkpoint,
    LoginFailure,
    Refusal,
    Allowance,
    KnownSource,
    Idempotency,
    Activity,
    ScopeUse,
    Node,
    ManifestRecord,
)
