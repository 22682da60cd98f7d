"""Files of settings: TOML, environment files of systemd and containers (``.env``), and secrets.

SECURITY: no sentence here quotes a line of a file, which may hold a secret.
"""

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from keyosk import small_files, whitespace
from keyosk.config import rules
from keyosk.config.rules import BadValue
from keyosk.errors import ConfigurationError, Fault

_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def is_environment_file(path: Path) -> bool:
    """Return whether a file has lines ``NAME=VALUE``, judging by its name."""
    return path.name.endswith(".env")  # ".env" itself has no suffix


def settings_not_read(path: Path, known: Iterable[str]) -> list[str]:
    """Return the settings in an environment file that is not read, without ``known``."""
    try:
        lines = small_files.read(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    names = [match[1] for line in lines if (match := _LINE.fullmatch(line.strip()))]
    return [name for name in names if name.startswith("KEYOSK_") and name not in set(known)]


def read(path: Path, *, named_by: str) -> Mapping[str, object] | None:
    """Return what a file says, by name; ``None`` if there is no such file.

    ``named_by``: what to call the place that names the file. Raises ``ConfigurationError``.
    """
    try:
        text = small_files.read(path).decode("utf-8-sig")
        return dict(_pairs(text)) if is_environment_file(path) else tomllib.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
    except tomllib.TOMLDecodeError as error:
        # Only the position: the rest of the message may quote the file, which may hold secrets.
        place = re.search(r" \(at [a-z0-9, ]+\)$", str(error))
        message = f"{path} is not TOML{place[0] if place else ''}"
    except UnicodeDecodeError:
        message = f"{path} is not UTF-8"
    except _BadLineError as error:
        message = f"{path}: {error}"
    except (ValueError, RecursionError):  # TOML that is valid, but Python cannot hold it
        message = f"{path} is nested too deeply, or has a number with too many digits"
    # SECURITY: outside the handler, because the exception holds the text.
    raise ConfigurationError([Fault(named_by, message)])


class _BadLineError(Exception):
    """A line that cannot be parsed; the message tells which and why."""


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith(("#", ";")):
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise _BadLineError(f"line {number} is not NAME=VALUE")
        name, value = match[1], match[2].strip()
        if name in seen:
            raise _BadLineError(f"{name} is given twice")
        seen.add(name)
        yield name, _unquoted(value, number)


def _unquoted(value: str, number: int) -> str:
    if not value.startswith(('"', "'")):
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        raise _BadLineError(f"line {number} has a quotation mark without its other one") from None
    if len(words) != 1:
        raise _BadLineError(f"line {number} has text behind its quotation marks")
    return words[0]


def read_secret(path: object, *, keep_byte_order_mark: bool = False) -> str:
    """Return the secret in a file, without the white space around it.

    A byte order mark is dropped too, unless ``keep_byte_order_mark``. Raises ``BadValue``. The
    message does not repeat the path, because it may be a secret by mistake.

    Its permissions do not matter, because containers mount secrets readable by all (0444).
    """
    try:
        content = small_files.read(Path(rules.text_of(path)))
        secret = content.decode().strip()
    except OSError as error:
        raise BadValue(f"cannot read the file: {error.strerror}") from None
    except ValueError:
        raise BadValue("the file must be UTF-8 text") from None
    secret = secret if keep_byte_order_mark else whitespace.trim(secret)
    if not secret:
        raise BadValue("the file is empty")
    return secret
