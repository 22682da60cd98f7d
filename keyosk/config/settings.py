"""Settings: read all, check all, report every problem at once, refuse unknown names.

The class ``Config`` is the one table of settings: loading, ``keyosk config check`` and the test of
``docs/reference/configuration.md`` derive from it. Nothing else in Keyosk reads the environment.

SECURITY: no sentence here repeats a value that was given, and no exception of a rule leaves this
module. Either could carry a secret, even from a setting that is none.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from keyosk import networks
from keyosk.config import combinations, files, rules, suggestions
from keyosk.config.addresses import Address, UnixAddress
from keyosk.config.rules import BadValue, Rule
from keyosk.errors import ConfigurationError, Fault

_PREFIX: Final = "KEYOSK_"
_CONFIG: Final = "KEYOSK_CONFIG"  # names the file of settings
#: Variables that are not settings; the last is for commands.
_OTHER_VARIABLES: Final = (_CONFIG, f"{_PREFIX}URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table of settings.

    ``default`` is written as in a file, ``None`` if it depends on something; ``default_text``
    describes it. A setting with a ``mask``, which makes its value showable,
    is secret and may be given by file.
    """

    name: str
    meaning: str
    rule: Rule
    default: str | int | None
    default_text: str
    mask: Callable[[object], str] | None

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return _PREFIX + self.name.upper()

    def show(self, value: object) -> str:
        """Return ``value`` for people, with a secret masked."""
        if value is None or value == ():
            return self.default_text
        if self.mask is not None:
            return self.mask(value)
        if self.rule is rules.socket_mode:
            return f"{value:04o}"
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _setting(
    rule: Rule,
    default: str | int | None,
    meaning: str,
    *,
    default_text: str | None = None,
    mask: Callable[[object], str] | None = None,
) -> Any:
    """A field of ``Config`` with its row of the table in its metadata."""
    row: dict[str, object] = {"rule": rule, "default": default, "meaning": meaning, "mask": mask}
    row["default_text"] = default_text or ("none" if default is None else str(default))
    return field(repr=mask is None, metadata=row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, checked, from ``load``. Neither ``repr`` nor ``describe`` shows a secret."""

    bind: Address | UnixAddress = _setting(  # noqa: RUF009 - a field(), and both are frozen
        rules.bind,
        "127.0.0.1:8080",
        "Where Keyosk listens: `host:port`, `:8080` for every IPv4 address, or "
        "`unix:/run/keyosk/keyosk.sock`.",
    )
    bind_mode: int = _setting(
        rules.socket_mode, "0660", "The mode of the Unix socket: who may connect to it."
    )
    tls_certificate: str | None = _setting(
        rules.file_path,
        None,
        "A PEM file with the certificate and its chain: Keyosk then speaks TLS itself.",
    )
    tls_key: str | None = _setting(
        rules.file_path,
        None,
        "The PEM file with the key of that certificate, without a passphrase.",
    )
    issuer: str = _setting(
        rules.issuer,
        None,
        "The `iss` of tokens and the base of every published address. "
        "Required once other machines can reach `KEYOSK_BIND`, and for a Unix socket.",
        default_text="http:// or, with TLS, https:// + bind",
    )
    database_url: str = _setting(
        rules.database_url,
        "sqlite:///data/keyosk.db",
        "A SQLite file, or `postgresql://user:password@host/database`.",
        mask=rules.hide_password,
    )
    database_schema: str | None = _setting(
        rules.database_schema,
        None,
        "The schema of a PostgreSQL database that Keyosk's tables are in; it must exist.",
        default_text="the first of the search path, mostly public",
    )
    database_prepare_threshold: int | str = _setting(
        rules.prepare_threshold,
        "auto",
        "How often a statement runs before PostgreSQL keeps its plan: a number, or `off`; "
        "`auto` is 5, and `off` behind a connection pooler.",
    )
    secret_key: tuple[str, ...] = _setting(
        rules.secret_keys,
        None,
        "A list of keys that encrypt the signing keys in the database: the first encrypts, the "
        "others only decrypt. Required for PostgreSQL.",
        default_text="made at first start beside the SQLite file",
        mask=rules.hide,
    )
    admin_username: str = _setting(
        rules.string(re.compile(r"[^\s:]+").fullmatch, "must be one word without a colon"),
        "admin",
        "The first account. Used only while there is no account.",
    )
    admin_password: str | None = _setting(
        rules.string(lambda text: 15 <= len(text) <= 1024, "must have 15 to 1024 characters"),
        None,
        "The password of the first account, 15 to 1024 characters.",
        default_text="generated and shown once",
        mask=rules.hide,
    )
    # At least 2, because one may be busy or restarting. At most 8, because a container sees all
    # cores of its machine, and 8 workers with 4 threads each use 32 of PostgreSQL's 100
    # connections.
    workers: int = _setting(
        rules.whole(1, 64),
        None,
        "Processes, 1 to 64.",
        default_text="one for each core, from 2 to 8",
    )
    threads: int = _setting(rules.whole(1, 64), 4, "Threads in each process, 1 to 64.")
    shutdown_delay: int = _setting(
        rules.whole(0, 300),
        0,
        "Seconds after SIGTERM for which Keyosk still serves and `/health/ready` is 503, so that a "
        "load balancer can notice.",
    )
    signing_algorithm: str = _setting(
        rules.one_of("ES256", "RS256", "PS256", "EdDSA"),
        "ES256",
        "What signs tokens: `ES256`, `RS256`, `PS256` or `EdDSA`.",
    )
    pkcs11_module: str | None = _setting(
        rules.pkcs11_text,
        None,
        "The library (PKCS#11) of the HSM that makes and keeps signing keys.",
    )
    pkcs11_token: str | None = _setting(rules.pkcs11_text, None, "The label of the token in it.")
    pkcs11_pin: str | None = _setting(
        rules.pkcs11_text, None, "The PIN of the token's user.", mask=rules.hide
    )
    token_lifetime: int = _setting(rules.whole(30, 86_400), 900, "Seconds, 30 to 86400.")
    token_backdate: int = _setting(
        rules.whole(0, 5),
        0,
        "Seconds by which `iat` is dated back, 0 to 5, for verifiers whose clocks are behind.",
    )
    key_rotation_days: int = _setting(
        rules.whole(0, 3_650),
        90,
        "Days after which a signing key is followed by another; 0: never.",
    )
    # Some verifiers keep the key set for 20 minutes, an hour or a day, and never refetch it for an
    # unknown key. Publishing the key earlier costs nothing.
    key_publish_ahead: int = _setting(
        rules.whole(1, 604_800), 90_000, "Seconds for which a key is published before it signs."
    )
    key_retain: int = _setting(
        rules.whole(0, 604_800),
        900,
        "Seconds for which a key stays published after its last token has expired.",
    )
    # SECURITY: the minimums are those of the design; no setting can weaken password hashes.
    argon2_memory_kib: int = _setting(
        rules.whole(19_456, 1_048_576),
        19_456,
        "KiB of memory for one password hash, 19456 to 1048576.",
    )
    argon2_time_cost: int = _setting(rules.whole(2, 20), 2, "Passes over that memory, 2 to 20.")
    argon2_parallelism: int = _setting(
        rules.whole(1, 16), 1, "Lanes of one password hash, 1 to 16."
    )
    trusted_proxies: tuple[networks.Network | str, ...] = _setting(
        rules.proxies,
        "",
        "A list of addresses and networks whose forwarded headers count; `unix` for whoever may "
        "connect to the Unix socket.",
        default_text="none",
    )
    cors_origins: tuple[str, ...] = _setting(
        rules.origins, "", "Origins whose scripts may call by Bearer.", default_text="none"
    )
    metrics_bind: Address | str = _setting(  # noqa: RUF009 - an Address is frozen
        rules.tcp_or_off,
        "127.0.0.1:9464",
        "Where `/metrics` is served, to whoever can reach it; `off`: nowhere.",
    )
    show_version: str = _setting(
        rules.one_of("on", "off"),
        "on",
        "Whether `/` and `/openapi.json` tell anybody the version: `on` or `off`.",
    )
    console: str = _setting(
        rules.one_of("on", "off"),
        "on",
        "The pages for people at `/console` and `/me`: `on` or `off`.",
    )
    console_second_factor: str = _setting(
        rules.one_of("optional", "admins"),
        "optional",
        "Who needs a second factor in the console: `admins` are all who hold a scope of Keyosk's "
        "own; `optional` are those who have added one.",
    )
    traces: str = _setting(
        rules.one_of("on", "off"),
        "off",
        "Whether requests are traced by OpenTelemetry: `on` or `off`. "
        "The collector is named by OpenTelemetry's own variables.",
    )
    log_level: str = _setting(
        rules.one_of("debug", "info", "warning", "error"),
        "info",
        "The least that is logged: `debug`, `info`, `warning` or `error`.",
    )
    log_format: str = _setting(
        rules.one_of("auto", "json", "text"),
        "auto",
        "`json`: a JSON object a line; `text`: for people; `auto`: text on a terminal, else JSON.",
    )
    #: Sentences about settings that work but are risky.
    warnings: tuple[str, ...] = ()
    #: Where each setting that is not at its default came from: ``environment`` or ``file PATH``.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def describe(self) -> list[tuple[str, str, str]]:
        """Return each setting as variable, value (a secret masked) and source.

        The source is ``default``, ``environment`` or ``file PATH``.
        """
        return [
            (row.variable, row.show(getattr(self, row.name)), self.sources.get(row.name, "default"))
            for row in SETTINGS
        ]


#: The table of settings, in the order of the documentation.
SETTINGS: Final = tuple(
    Setting(name=each.name, **each.metadata) for each in dataclasses.fields(Config) if each.metadata
)
_KEYS: Final = {row.name: row.name for row in SETTINGS} | {
    f"{row.name}_file": row.name for row in SETTINGS if row.mask is not None
}
_VARIABLES: Final = {_PREFIX + key.upper(): name for key, name in _KEYS.items()}


class _RawValue(NamedTuple):
    """A value as the operator wrote it, and where; ``None`` once it has a fault."""

    label: str
    source: str
    value: object


def load(environ: Mapping[str, str], *, cores: int | None = None) -> Config:
    """Read and check all settings: from ``environ``, which wins, then from the file.

    ``cores``: how many processor cores to choose the defaults for; without it those that this
    process may use. Raises ``ConfigurationError`` with one fault for every problem there is.
    """
    faults: list[Fault] = []
    given = _from_file(environ, faults) | _from_environment(environ, faults)
    unchecked: dict[str, object] = {row.name: row.default for row in SETTINGS}
    unchecked["workers"] = max(2, min(cores or _usable_cores(), 8))
    unchecked |= {name: raw.value for name, raw in given.items()}
    values: dict[str, Any] = {}
    for row in SETTINGS:
        value = unchecked[row.name]
        if value is None:
            continue
        try:
            values[row.name] = row.rule(value)
        except BadValue as error:
            faults.append(Fault(given[row.name].label, suggestions.sentence(str(error), value)))
    faults += _fill_defaults(values, given)
    if faults:
        raise ConfigurationError(faults)
    sources = {name: raw.source for name, raw in given.items()}
    warnings = (
        *combinations.warnings_of(values),
        *suggestions.warn_of_quotes(given.values()),
        *_warn_of_unread_file(environ),
    )
    return Config(**values, warnings=warnings, sources=sources)


def _usable_cores() -> int:
    """Return how many processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))  # respects limits that cpu_count ignores
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _fill_defaults(values: dict[str, Any], given: Mapping[str, _RawValue]) -> Iterator[Fault]:
    """Add the defaults that depend on other settings. Yield a fault where there is no default.

    An invalid setting is in ``given`` but not in ``values``, so that it is reported only once.
    """
    bind: Address | UnixAddress | None = values.get("bind")
    if bind is not None and "issuer" not in given:
        values["issuer"] = f"{'https' if 'tls_certificate' in given else 'http'}://{bind}"
        if not bind.is_loopback or isinstance(bind, UnixAddress):
            cause = (
                "as KEYOSK_BIND is a Unix socket: the URL by which clients reach it"
                if isinstance(bind, UnixAddress)
                else "as other machines can reach KEYOSK_BIND: the URL by which they do, such as "
                "https://login.example.com"
            )
            yield Fault("KEYOSK_ISSUER", f"is required, {cause}")
    yield from combinations.database_faults(given, values)
    metrics = values.get("metrics_bind")
    if isinstance(bind, Address) and isinstance(metrics, Address) and metrics.port == bind.port:
        yield Fault("KEYOSK_METRICS_BIND", "must have another port than KEYOSK_BIND")
    yield from combinations.tls_faults(given, values)
    values.setdefault("secret_key", ())
    yield from combinations.pkcs11_faults(given, values)
    optional = ("admin_password", "database_schema", "tls_certificate", "tls_key")
    for name in (*optional, *combinations.PKCS11):
        values.setdefault(name, None)


def _warn_of_unread_file(environ: Mapping[str, str]) -> Iterator[str]:
    """Warn of a ``.env`` file in this folder with settings that Keyosk does not read."""
    if not environ.get(_CONFIG) and files.settings_not_read(Path(".env"), environ):
        yield (
            "The file .env in this folder has settings that are not read. Name it: --config .env, "
            "or KEYOSK_CONFIG=.env."
        )


def _from_environment(environ: Mapping[str, str], faults: list[Fault]) -> dict[str, _RawValue]:
    return _by_setting(_keyosk_variables(environ), _VARIABLES, faults, source="environment")


def _keyosk_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_PREFIX)
        and name not in _OTHER_VARIABLES
        and (value or name not in _VARIABLES)
    }


def _from_file(environ: Mapping[str, str], faults: list[Fault]) -> dict[str, _RawValue]:
    """Return the values of the file; it must exist only if ``KEYOSK_CONFIG`` names it."""
    path = Path(environ.get(_CONFIG) or "keyosk.toml")
    try:
        pairs = files.read(path, named_by=_CONFIG)
    except ConfigurationError as error:
        faults += error.faults
        return {}
    if pairs is None:
        if environ.get(_CONFIG):
            faults.append(Fault(_CONFIG, f"there is no file {path}"))
        return {}
    further_values: dict[str, _RawValue] = {}
    settings: Mapping[str, str] = _KEYS
    if files.is_environment_file(path):
        further = {name: str(value) for name, value in pairs.items() if name == _CONFIG and value}
        if further and not files.is_environment_file(Path(further[_CONFIG])):
            further_values = _from_file(further, faults)
        texts = {name: str(value) for name, value in pairs.items()}
        # Otherwise a known name in another case, such as keyosk_threads, would be silently ignored.
        other_case = {
            name: text
            for name, text in texts.items()
            if name not in _VARIABLES and name.upper() in _VARIABLES
        }
        pairs, settings = _keyosk_variables(texts) | other_case, _VARIABLES
    return further_values | _by_setting(
        pairs, settings, faults, source=f"file {path}", where=f"{path}: "
    )


def _by_setting(
    pairs: Mapping[str, object],
    settings: Mapping[str, str],
    faults: list[Fault],
    *,
    source: str,
    where: str = "",
) -> dict[str, _RawValue]:
    """Return the given values by setting, with secret files read; unknown names are faults."""
    by_setting: dict[str, _RawValue] = {}
    for name, value in pairs.items():
        label, setting = where + name, settings.get(name)
        if setting is None:
            faults.append(
                Fault(label, f"is unknown{suggestions.hint(name, _known_names(settings))}")
            )
            continue
        try:
            if setting in by_setting:
                raise BadValue(f"is also given as {by_setting[setting].label}; keep one")
            if name.lower().endswith("_file"):
                secret = files.read_secret(value, keep_byte_order_mark=setting == "secret_key")
                by_setting[setting] = _RawValue(label, f"file {value}", secret)
            else:
                str(value).encode()  # the environment may hold bytes that are not text
                by_setting[setting] = _RawValue(label, source, value)
        except (BadValue, UnicodeEncodeError) as error:
            message = str(error) if isinstance(error, BadValue) else "must be UTF-8"
            faults.append(Fault(label, message))
            by_setting[setting] = _RawValue(label, source, None)
    return by_setting


def _known_names(names: Mapping[str, str]) -> list[str]:
    return [*names, _CONFIG] if names is _VARIABLES else [*names]
