"""What is added to a message about a setting, so that the next step is clear."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

_PREFIX: Final = "KEYOSK_"
#: The names of the same settings in other programs.
_SYNONYMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("host", "listen", "address", "port"), "bind"),
    **dict.fromkeys(("db", "db_url", "dsn", "postgres_url"), "database_url"),
    **dict.fromkeys(("url", "base_url", "public_url", "external_url"), "issuer"),
    **dict.fromkeys(("secret", "encryption_key", "master_key"), "secret_key"),
    **dict.fromkeys(("admin", "admin_user"), "admin_username"),
    **dict.fromkeys(("ttl", "token_ttl", "expiry"), "token_lifetime"),
    **dict.fromkeys(("tls_cert", "cert", "ssl_cert"), "tls_certificate"),
}
_KUBERNETES: Final = re.compile(r"KEYOSK_(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_\w+)?)")


def hint(name: str, names: Collection[str]) -> str:
    """Return a suggestion for an unknown setting, to follow "is unknown"."""
    if _KUBERNETES.fullmatch(name):
        message = (
            "; Kubernetes sets it for a Service named keyosk, unless enableServiceLinks is false"
        )
        return (
            f"{message}. To choose the port, set KEYOSK_BIND" if name == "KEYOSK_PORT" else message
        )
    by_short_name = {setting.removeprefix(_PREFIX).lower(): setting for setting in names}
    meant = name.upper().removeprefix(_PREFIX).lower()
    meant = _SYNONYMS.get(meant, meant)
    near = difflib.get_close_matches(meant, by_short_name, n=1)
    return f"; did you mean {by_short_name[near[0]]}?" if near else ""


def quotation_hint(value: object) -> str:
    """Return a hint about a value in quotation marks, to follow its name; else nothing."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return "stands in quotation marks, which docker --env-file makes a part of the value"
    return ""


def sentence(message: str, value: object) -> str:
    """Return the message for a value, with the hint if it is quoted."""
    hint = quotation_hint(value)
    return message + (f"; it {hint}" if hint else "")


def warn_of_quotes(given: Iterable[tuple[str, str, object]]) -> list[str]:
    """Return the quoted values among (name, source, value), which a rule may have let pass."""
    return [f"{name} {quotation_hint(value)}." for name, _, value in given if quotation_hint(value)]
