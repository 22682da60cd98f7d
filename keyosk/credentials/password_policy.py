"""The rules for new passwords (SP 800-63B-4 section 3.1.1.2).

The only user of zxcvbn. It uses only its list of common passwords. ``password_hashing``
stores and verifies passwords.
"""

import functools
import importlib.util
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keyosk import errors
from keyosk.credentials import api_key_format
from keyosk.credentials.password_hashing import prepare

MIN_LENGTH: Final = 15
"""The length of the shortest password, in code points after NFC (SP 800-63B-4 section 3.1.1.2)."""

# A password that consists of steps along these is a sequence.
_SEQUENCES = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
    "!@#$%^&*()_+",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "1q2w3e4r5t6y7u8i9o0p",
)
_STEPS = frozenset(
    pair
    for sequence in _SEQUENCES
    for direction in (sequence, sequence[::-1])
    for pair in itertools.pairwise(direction)
)
_LOOKALIKES = str.maketrans("0134578@$!", "oieastbasi")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PADDING = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_WORD = re.compile(r"[^\W_]+")
_SERVICE_NAME = "keyosk"
_MIN_NAME_LENGTH = 2
_MIN_LENGTH_BESIDE_NAMES = 8
_SEQUENCE_RUN_LENGTH = 3
_PADDING_RUN_LENGTH = 5


def check_new(password: str, *, username: str, display_name: str | None = None) -> None:
    """Check that a password may be set for an account (SP 800-63B-4 section 3.1.1.2).

    It has 15 to 1,024 code points after NFC and no control character (they cannot be sent in
    HTTP Basic), and does not start like an API key (it would be taken for one). There is no
    rule about what kinds of characters it is made of. It is not on the blocklist, which works
    like this, without regard to case and width:

    1. A repeated short part is refused. So are fewer than 15 runs (of 3 characters on average)
       along the alphabet, the digits, a row of the keyboard or one character.
    2. Digits and symbols around it or between its letters, lookalikes (``0`` for ``o``), longer
       sequences and repetitions are removed. If a common password is left, forwards or backwards,
       it is refused.
    3. The names of the account, their parts, and ``keyosk`` are removed. If fewer than 8 letters
       and digits are left, or rule 1 or 2 refuses the rest, it is refused.

    Two or more different common words are not refused: that is what passphrases are made of.

    Raises:
        errors.Invalid: for the field ``password``, with the rule that it breaks.
    """
    composed = prepare(password).decode()
    if len(composed) < MIN_LENGTH:
        raise _invalid(f"must have at least {MIN_LENGTH} characters")
    if _CONTROL.search(composed):
        raise _invalid(
            "must not contain control characters, which cannot be sent (RFC 7617 section 2)"
        )
    if api_key_format.looks_like(composed):
        raise _invalid(f"must not start with {api_key_format.PREFIX}, as API keys do")

    folded = _fold(composed)
    names = _names(username, display_name or "", _SERVICE_NAME)
    if any(form in names or form[::-1] in names for form in _forms(folded)):
        raise _invalid("must not be a variation of the name of the account or of this service")
    _refuse_predictable(folded)
    beside_names = _without(names, folded)
    if beside_names != folded:
        if len(_alphanumeric(beside_names)) < _MIN_LENGTH_BESIDE_NAMES:
            raise _invalid("must contain more than the names of the account and of this service")
        _refuse_predictable(beside_names)


def _refuse_predictable(text: str) -> None:
    for candidate in (text, _alphanumeric(text)):
        most = min(len(candidate) // _SEQUENCE_RUN_LENGTH, MIN_LENGTH - 1)
        if 0 < len(_runs(candidate)) <= most:
            raise _invalid(
                "must not be a sequence such as 12345 or qwerty, or one repeated character"
            )
    common = _common_passwords()
    for form in _forms(text):
        if form in common or form[::-1] in common:
            raise _invalid(
                "must not be a common password, even with digits, symbols or repetitions added"
            )
    for form in _reductions(text):
        if 2 * len(form) >= len(text) and 2 * len(_unit(form)) <= len(form):
            raise _invalid("must not repeat a short part")


def _forms(text: str) -> Iterator[str]:
    """Return the words that a folded password may be a disguise of."""
    for reduced in _reductions(text):
        yield reduced
        yield _unit(reduced)


def _reductions(text: str) -> set[str]:
    core = _PADDING.sub("", text)
    no_runs = "".join(run for run in _runs(text) if len(run) < _PADDING_RUN_LENGTH)
    return {
        text,
        core,
        _alphanumeric(text),
        _letters(text),
        _letters(core.translate(_LOOKALIKES)),
        _letters(no_runs),
    } - {""}


def _unit(text: str) -> str:
    """Return the shortest part, below 15 characters, whose repetition is the text, or the text.

    The last repetition may be incomplete.
    """
    for length in range(1, min(MIN_LENGTH, len(text))):
        if text[length:] == text[:-length]:
            return text[:length]
    return text


def _runs(text: str) -> list[str]:
    """Split a text into the longest parts in which each character is an obvious successor."""
    runs: list[list[str]] = []
    for character in text:
        last = runs[-1][-1] if runs else ""
        if last and (character == last or (last, character) in _STEPS):
            runs[-1].append(character)
        else:
            runs.append([character])
    return ["".join(run) for run in runs]


def _names(*texts: str) -> frozenset[str]:
    names: set[str] = set()
    for folded in map(_fold, texts):
        names |= {folded, *_reductions(folded), *_WORD.findall(folded)}
    return frozenset(names - {""})


def _without(names: frozenset[str], text: str) -> str:
    longest_last = sorted((name for name in names if len(name) >= _MIN_NAME_LENGTH), key=len)
    return re.sub("|".join(map(re.escape, reversed(longest_last))), " ", text)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _alphanumeric(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


@functools.cache
def _common_passwords() -> frozenset[str]:
    """Load the 30,000 common passwords that zxcvbn ships, in small letters.

    Only this one file is run: importing the package would keep 12 MB of other lists in every
    process for good, where this keeps 4.
    """
    package = importlib.util.find_spec("zxcvbn")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("zxcvbn is not installed")
    path = Path(package.submodule_search_locations[0]) / "frequency_lists.py"
    spec = importlib.util.spec_from_file_location("zxcvbn_frequency_lists", path)
    if spec is None or spec.loader is None:
        raise RuntimeError("zxcvbn has no frequency lists")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return frozenset(_fold(password) for password in module.FREQUENCY_LISTS["passwords"])


def _invalid(message: str) -> errors.Invalid:
    return errors.Invalid.field("password", message)
