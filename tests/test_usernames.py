"""Usernames: one stored form for every spelling, and a reason for every refusal."""

import time
import unicodedata
import uuid
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyosk import errors
from keyosk.credentials import usernames
from tables import table

any_text = st.text(st.characters(categories=None), max_size=40)
names = st.text(st.characters(categories=["L", "M", "N"]), min_size=1, max_size=8)


def refusal(username: str) -> str:
    with pytest.raises(errors.Invalid) as raised:
        usernames.normalise(username)
    (fault,) = raised.value.faults
    assert fault.field == "username"
    assert usernames.lookup_form(username) is None
    return fault.message


@table(
    ("username", "form"),
    [
        ("alice", "alice"),
        ("Alice", "alice"),
        ("ALICE", "alice"),
        ("\uff21\uff2c\uff29\uff23\uff25", "alice"),
        ("svc.build-01", "svc.build-01"),
        ("Alice+todo@Example.com", "alice+todo@example.com"),
        ("o'neil_~$!&()*,;=\"<>[]^`{|}", "o'neil_~$!&()*,;=\"<>[]^`{|}"),
        ("Jos\u00e9", "jos\u00e9"),
        ("Jose\u0301", "jos\u00e9"),
        ("\u0416\u0423\u041a", "\u0436\u0443\u043a"),
        ("\u738b\u4f1f", "\u738b\u4f1f"),
        ("\uff8a\uff9e", "\u30d0"),
        ("\u05d0\u05d11", "\u05d0\u05d11"),
        ("\u212b", "\u00e5"),
        ("\u1e9e", "\u00df"),
        ("a", "a"),
        ("a" * 255, "a" * 255),
        ("e\u0301" * 255, "\u00e9" * 255),
        ("kysk", "kysk"),
        ("me2", "me2"),
        ("...", "..."),
    ],
)
def test_a_username_has_one_form(username: str, form: str) -> None:
    assert usernames.normalise(username) == form
    assert usernames.lookup_form(username) == form


@pytest.mark.parametrize(
    ("username", "reason"),
    [
        ("", "must have at least 1 character"),
        ("a" * 256, "must have at most 255 characters"),
        ("\u0130" * 200, "must have at most 255 characters"),
        pytest.param("a" * 5_000_000, "must have at most 255 characters", id="huge"),
        ("a b", "must not contain U+0020 SPACE (RFC 8264 section 4.2)"),
        ("a\u00a0b", "must not contain U+00A0 NO-BREAK SPACE (RFC 8264 section 4.2)"),
        ("a:b", "must not contain :"),
        ("a\uff1ab", "must not contain :"),
        ("a/b", "must not contain /"),
        ("a\uff0fb", "must not contain /"),
        ("a\\b", "must not contain \\"),
        ("a?b", "must not contain ?"),
        ("a#b", "must not contain #"),
        ("a%b", "must not contain %"),
        (".", "is reserved"),
        ("..", "is reserved"),
        ("\uff0e\uff0e", "is reserved"),
        ("me", "is reserved"),
        ("ME", "is reserved"),
        ("\uff2d\uff25", "is reserved"),
        ("Import", "is reserved"),
        ("export", "is reserved"),
        ("kysk_x", "must not start with kysk_, as API keys do"),
        ("KYSK_X", "must not start with kysk_, as API keys do"),
        ("a\x00b", "must not contain U+0000 (RFC 8264 section 4.2)"),
        ("a\nb", "must not contain U+000A (RFC 8264 section 4.2)"),
        ("\x7f", "must not contain U+007F (RFC 8264 section 4.2)"),
        ("a\ud800", "must not contain U+D800 (RFC 8264 section 4.2)"),
        ("\U000e0fff", "must not contain U+E0FFF (RFC 8264 section 4.2)"),
        ("a\u200bb", "must not contain U+200B ZERO WIDTH SPACE (RFC 8264 section 4.2)"),
        ("a\u202eb", "must not contain U+202E RIGHT-TO-LEFT OVERRIDE (RFC 8264 section 4.2)"),
        ("\ufb01n", "must not contain U+FB01 LATIN SMALL LIGATURE FI (RFC 8264 section 4.2)"),
        (
            "1\u05d0",
            "mixes writing directions in a way that can be misread (RFC 5893 section 2)",
        ),
    ],
)
def test_a_username_is_refused_with_the_reason(username: str, reason: str) -> None:
    assert refusal(username) == reason


WIDE_DIGITS = {digit: digit + 0xFEE0 for digit in range(ord("0"), ord("9") + 1)}
UUID_SPELLINGS: dict[str, Callable[[uuid.UUID], str]] = {
    "usual": str,
    "capital": lambda id_: str(id_).upper(),
    "without hyphens": lambda id_: id_.hex,
    "in braces": lambda id_: f"{{{id_}}}",
    "fullwidth": lambda id_: str(id_).translate(WIDE_DIGITS),
    "odd hyphens": lambda id_: "-".join(id_.hex),
}


@table("spelling", UUID_SPELLINGS.values(), ids=UUID_SPELLINGS.keys())
def test_nothing_that_reads_as_a_uuid_is_a_username(spelling: Callable[[uuid.UUID], str]) -> None:
    assert "UUID" in refusal(spelling(uuid.uuid4()))


@given(username=any_text)
@example("\ud800")
@example("\u0345\u0301")
def test_any_text_has_a_stable_form_or_is_refused(username: str) -> None:
    form = usernames.lookup_form(username)
    if form is None:
        refusal(username)
        return
    assert usernames.normalise(form) == form
    assert 1 <= len(form) <= 255
    assert unicodedata.is_normalized("NFC", form)
    assert form.encode().decode() == form
    assert not set(form) & set(":/\\?#% ")


@settings(max_examples=300)
@given(username=names)
@example("\u1f82\u0345")
@example("\u03a3\u0301\u03a3")
def test_composed_and_decomposed_spellings_are_one_account(username: str) -> None:
    form = usernames.lookup_form(username)

    assert usernames.lookup_form(unicodedata.normalize("NFD", username)) == form
    assert usernames.lookup_form(unicodedata.normalize("NFC", username)) == form


@given(username=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_letter_case_and_width_do_not_matter(username: str) -> None:
    form = usernames.lookup_form(username)
    wide = "".join(chr(ord(character) + 0xFEE0) for character in username)

    assert usernames.lookup_form(username.upper()) == form
    assert usernames.lookup_form(username.lower()) == form
    assert usernames.lookup_form(wide) == form


def test_the_short_way_for_ascii_agrees_with_the_profile() -> None:
    for character in map(chr, range(128)):
        name = f"a{character}a"
        # The long way is taken because of the last letter, which stays as it is.
        long_way = usernames.lookup_form(name + "\u00e9")

        assert usernames.lookup_form(name) == (long_way and long_way[:-1])


@table("character", ["a", "\u0436", "\u0130", "\u0301", "\ud800", "\uff21"])
def test_a_huge_name_is_refused_in_no_time(character: str) -> None:
    huge = character * 2_000_000
    start = time.process_time()

    assert usernames.lookup_form(huge) is None
    assert time.process_time() - start < 0.5


def test_a_refusal_does_not_repeat_the_input() -> None:
    # People type their password into the wrong field.
    with pytest.raises(errors.Invalid) as raised:
        usernames.normalise("correct horse battery staple")

    assert "horse" not in str(raised.value)
    assert raised.value.__context__ is None
