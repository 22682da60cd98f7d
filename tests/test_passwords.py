"""Passwords: what may be chosen, how one is checked, and what a failure costs."""

import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.context import CryptContext

import cpu_times
from cheap_passwords import InsecurelyCheapPasswords
from keyosk import errors
from keyosk.credentials import api_key_format, password_hashing, password_policy
from keyosk.credentials.password_hashing import Passwords
from processes import execute
from tables import table

GOOD = "correct horse battery staple"

CHEAP = InsecurelyCheapPasswords()
STORED = CHEAP.hash(GOOD)


def assert_wrong(checker: Passwords, password: str, stored: str | None) -> errors.BadCredentials:
    with pytest.raises(errors.BadCredentials) as raised:
        checker.verify(password, stored)
    return raised.value


def refusal(password: str, username: str = "alice", display_name: str | None = None) -> str:
    with pytest.raises(errors.Invalid) as raised:
        password_policy.check_new(password, username=username, display_name=display_name)
    (fault,) = raised.value.faults
    assert fault.field == "password"
    return fault.message


# ---- Hashing -----------------------------------------------------------------------------------


def test_a_hash_is_argon2id_with_the_least_parameters_by_default() -> None:
    stored = Passwords().hash(GOOD)

    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    _, _, _, _, salt, digest = stored.split("$")
    assert (len(salt), len(digest)) == (22, 43)  # 16 and 32 bytes


@table(
    "parameters",
    [
        {"memory_kib": 19_455},
        {"time_cost": 1},
        {"parallelism": 0},
        {"memory_kib": 0},
        {"time_cost": -1},
        {"memory_kib": 2 * 1024 * 1024},
        {"time_cost": 1_000_000},
        {"parallelism": 65},
    ],
)
def test_parameters_cannot_be_lowered_nor_be_absurd(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be at least|too much work"):
        Passwords(**parameters)


def test_the_right_password_passes_and_a_wrong_one_raises() -> None:
    assert CHEAP.verify(GOOD, STORED) is None
    assert_wrong(CHEAP, GOOD + " ", STORED)
    assert_wrong(CHEAP, GOOD.upper(), STORED)


def test_two_hashes_of_one_password_differ() -> None:
    assert CHEAP.hash(GOOD) != CHEAP.hash(GOOD)


@settings(max_examples=50)
@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_unicode_is_a_password_in_each_of_its_normal_forms(password: str) -> None:
    stored = CHEAP.hash(password)

    for form in ("NFC", "NFD"):
        assert CHEAP.verify(unicodedata.normalize(form, password), stored) is None
    assert_wrong(CHEAP, password + "x", stored)


@table("letter", ["a", "\u20ac", "\U0001f511", "e\u0301", "\u1f82"])
def test_nothing_is_cut_off(letter: str) -> None:
    longest = letter * 1023 + "y"
    stored = CHEAP.hash(longest)

    assert CHEAP.verify(longest, stored) is None
    assert CHEAP.verify(unicodedata.normalize("NFD", longest), stored) is None
    assert_wrong(CHEAP, letter * 1023 + "z", stored)
    with pytest.raises(errors.Invalid, match="at most 1,024"):
        CHEAP.hash(longest + "y")


@table(
    "password",
    ["", "a" * 1025, "a" * 3_000_000, "\ud800" * 20],
    ids=["empty", "long", "huge", "surrogates"],
)
def test_what_cannot_be_a_password_is_not_hashed_and_never_right(password: str) -> None:
    with pytest.raises(errors.Invalid):
        CHEAP.hash(password)
    assert_wrong(CHEAP, password, STORED)
    assert_wrong(CHEAP, password, None)


@settings(max_examples=50)
@given(password=st.text(st.characters(categories=None)), stored=st.none() | st.text())
def test_no_password_or_stored_text_raises_anything_else(password: str, stored: str | None) -> None:
    assert_wrong(CHEAP, password, stored)


MALFORMED = [
    "",
    "$argon2",
    "$argon2id$",
    STORED[:40],
    STORED[:-20],
    STORED[:-1] + "!",
    STORED + "\x00",
    STORED + "\n",
    STORED + "=",
    STORED + "AAAA",
    "\u00e9" + STORED,
    "\ud800",
    STORED.replace("m=64", "m=1"),
    STORED.replace("m=64", "m=0"),
    STORED.replace("m=64", "m=4294967295"),
    STORED.replace("m=64", "m=4000000"),
    STORED.replace("t=1", "t=0"),
    STORED.replace("t=1", "t=4294967295"),
    STORED.replace("p=1", "p=0"),
    STORED.replace("p=1", "p=200"),
    STORED.replace("p=1", "p=1,data=YWJj"),
    STORED.replace("argon2id", "argon2x"),
    STORED.replace("v=19", "v=99"),
    "$2b$12$" + "a" * 53,
    "plain text",
]


@table("stored", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_stored_hash_refuses_everybody_and_is_shown_to_nobody(stored: str) -> None:
    error = assert_wrong(CHEAP, GOOD, stored)

    assert error.__cause__ is None
    assert error.__context__ is None


# ---- Rehash ------------------------------------------------------------------------------------


@table(
    "older",
    [
        InsecurelyCheapPasswords(memory_kib=32),
        InsecurelyCheapPasswords(memory_kib=128),
        InsecurelyCheapPasswords(time_cost=2),
        InsecurelyCheapPasswords(parallelism=2),
    ],
    ids=["less memory", "more memory", "more passes", "more lanes"],
)
def test_a_hash_with_other_parameters_is_replaced_at_the_next_login(older: Passwords) -> None:
    replacement = CHEAP.verify(GOOD, older.hash(GOOD))

    assert replacement is not None
    assert CHEAP.verify(GOOD, replacement) is None
    assert_wrong(CHEAP, "something else entirely", older.hash(GOOD))


@table("kind", ["I", "D"])
def test_a_hash_of_another_argon2_is_replaced_at_the_next_login(kind: str) -> None:
    context = CryptContext(
        ["argon2"],
        argon2__type=kind,
        argon2__memory_cost=64,
        argon2__rounds=1,
        argon2__parallelism=1,
    )
    stored = context.hash(GOOD)

    assert stored.startswith(f"$argon2{kind.lower()}$")
    assert (CHEAP.verify(GOOD, stored) or "").startswith("$argon2id$")
    assert_wrong(CHEAP, "something else entirely", stored)


# ---- The cost of a failure ---------------------------------------------------------------------


def test_every_failure_costs_the_same_work() -> None:
    live = Passwords()
    stored = live.hash(GOOD)
    failures = {
        "wrong": ("x" * 20, stored),
        "unknown account": (GOOD, None),
        "empty": ("", stored),
        "too long": ("x" * 2000, stored),
        "not Unicode": ("\ud800" * 20, stored),
        "malformed hash": (GOOD, stored[:-20]),
        "cut hash": (GOOD, stored[:-1]),
        "absurd hash": (GOOD, stored.replace("m=19456", "m=4000000")),
    }
    costs = cpu_times.least(
        {name: partial(assert_wrong, live, *args) for name, args in failures.items()}
    )

    for name, cost in costs.items():
        assert 0.6 < cost / costs["wrong"] < 1.6, name


@table("raised", [{"time_cost": 5}, {"memory_kib": 48_000}])
def test_unknown_accounts_and_old_hashes_cost_what_raised_parameters_cost(
    raised: dict[str, Any],
) -> None:
    # With a dummy hash that stays behind, an unknown account would answer twice as fast.
    live = Passwords(**raised)
    new, old = live.hash(GOOD), Passwords().hash(GOOD)

    hashes = {"wrong": new, "unknown": None, "not yet replaced": old}
    costs = cpu_times.least(
        {name: partial(assert_wrong, live, "x" * 20, stored) for name, stored in hashes.items()}
    )

    assert 0.6 < costs["unknown"] / costs["wrong"] < 1.6
    assert 0.6 < costs["not yet replaced"] / costs["wrong"] < 1.6


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS as Linux has it")
def test_too_little_memory_is_not_a_wrong_password() -> None:
    program = textwrap.dedent("""
        import resource
        from keyosk import errors
        from keyosk.credentials.password_hashing import Passwords

        live = Passwords(memory_kib=600 * 1024)
        stored = Passwords().hash("p" * 20).replace("m=19456", f"m={600 * 1024}")
        resource.setrlimit(resource.RLIMIT_AS, (500 * 1024**2, 500 * 1024**2))
        for call in (
            lambda: live.hash("p" * 20),
            lambda: live.verify("p" * 20, stored),
            lambda: live.verify("p" * 20, None),
        ):
            try:
                call()
            except errors.Unavailable as error:
                assert error.__context__ is None
            else:
                raise SystemExit("no Unavailable")
    """)
    result = execute([sys.executable, "-c", program])

    assert result.returncode == 0, result.stderr


# ---- Judging a new password --------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    [
        GOOD,
        "correcthorsebatterystaple",
        "a long enough password",
        "dragon monkey football sunshine",
        "Tr0ub4dor&3-correct",
        "x7#Kp2!mQ9$vL4z",
        "0f8fad5bd9cb469fa16570867728950e",
        "83920174658201946573",
        "83920174658201aa",
        "my dog is brown",
        "alice loves long walks",
        "alice's long password 1",
        "\u043f\u0430\u0440\u043e\u043b\u044c \u0434\u043b\u044f \u0432\u0445\u043e\u0434\u0430",
        "\u65e5\u672c\u8a9e\u306e\u30d1\u30b9\u30ef\u30fc\u30c9\u306f\u9577\u3044\u3067\u3059\u3088",
        pytest.param(GOOD + " " * 990, id="long"),
    ],
)
def test_these_may_be_chosen(password: str) -> None:
    password_policy.check_new(password, username="alice", display_name="Alice Liddell")


SEQUENCE = "must not be a sequence such as 12345 or qwerty, or one repeated character"
COMMON = "must not be a common password, even with digits, symbols or repetitions added"
REPEATED = "must not repeat a short part"
NAME = "must not be a variation of the name of the account or of this service"
NAMES = "must contain more than the names of the account and of this service"


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "must not be empty"),
        ("hunter2-hunter", "must have at least 15 characters"),
        ("e\u0301" * 14, "must have at least 15 characters"),
        pytest.param("x" * 1025, "must have at most 1,024 characters", id="long"),
        pytest.param("x" * 5_000_000, "must have at most 1,024 characters", id="huge"),
        (GOOD + "\ud800", "must be valid Unicode, without lone surrogates"),
        *(
            (
                f"correct horse{control}battery",
                "must not contain control characters, which cannot be sent (RFC 7617 section 2)",
            )
            for control in "\x00\n\t\x1f\x7f\x80\x85\x9f"
        ),
        ("kysk_" + GOOD, "must not start with kysk_, as API keys do"),
        ("aaaaaaaaaaaaaaaa", SEQUENCE),
        ("!!!!!!!!!!!!!!!", SEQUENCE),
        ("\U0001f600" * 15, SEQUENCE),
        ("abcabcabcabcabc", SEQUENCE),
        ("123456789012345", SEQUENCE),
        ("543210987654321", SEQUENCE),
        ("111222333444555", SEQUENCE),
        ("abcdefghijklmnop", SEQUENCE),
        ("QwertyuiopAsdfgh", SEQUENCE),
        ("1qaz2wsx3edc4rfv", SEQUENCE),
        ("abcd-efgh-1234-5678", SEQUENCE),
        ("!@#$%^&*()_+!@#", SEQUENCE),
        ("x7k x7k x7k x7k", REPEATED),
        ("x7Kx7kX7kx7kx7kx7", REPEATED),
        ("passwordstandard", COMMON),
        ("passwordpassword", COMMON),
        ("passwordpasswor", COMMON),
        ("password1234567", COMMON),
        ("2024password!!!!", COMMON),
        ("Password!Password!", COMMON),
        ("Password1Password2", COMMON),
        ("p a s s w o r d 1", COMMON),
        ("P@ssw0rd12345678", COMMON),
        ("passwordabcdefgh", COMMON),
        ("drowssapdrowssap", COMMON),
        ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff441234567", COMMON),
        ("letmein letmein", COMMON),
        ("trustno1trustno1", COMMON),
        ("alice password 1", COMMON),
        ("alicealicealice", NAME),
        ("ALICE-2024-01-01", NAME),
        ("ecilaecilaecila1", NAME),
        ("aliceliddell2024", NAME),
        ("Alice Liddell 1", NAME),
        ("keyosk-keyosk-1", NAME),
        ("alice@keyosk.2024", NAMES),
    ],
)
def test_these_are_refused_with_the_reason(password: str, reason: str) -> None:
    assert refusal(password, "alice", "Alice Liddell") == reason


VARIATIONS: dict[str, Callable[[str], str]] = {
    "repeated": lambda name: name * 15,
    "in capitals": lambda name: name.upper() * 15,
    "among digits": lambda name: "12" + name + "20240101!!!!!!!",
    "with hyphens": lambda name: (name + "-") * 8,
    "backwards": lambda name: name[::-1] + "123456789012345",
    "with the service": lambda name: name + " Keyosk " + name + " 2024",
}


@table(
    "username",
    ["svc.build-01", "alice.wonderland@example.com", "jos\u00e9", "\u738b\u5c0f\u660e", "al"],
)
@table("vary", VARIATIONS.values(), ids=VARIATIONS.keys())
def test_a_username_is_refused_however_varied(username: str, vary: Callable[[str], str]) -> None:
    refusal(vary(username), username)


def test_the_name_of_another_account_is_no_reason() -> None:
    password_policy.check_new("wonderland is a long way off", username="wonder")


@settings(max_examples=50)
@given(
    password=st.text(st.characters(categories=None), max_size=60),
    username=st.text(max_size=20),
    display_name=st.none() | st.text(max_size=20),
)
def test_what_is_accepted_can_be_hashed_and_checked(
    password: str, username: str, display_name: str | None
) -> None:
    try:
        password_policy.check_new(password, username=username, display_name=display_name)
    except errors.Invalid:
        return
    assert 15 <= len(unicodedata.normalize("NFC", password)) <= 1024
    assert CHEAP.verify(password, CHEAP.hash(password)) is None


def test_judging_the_longest_password_takes_milliseconds() -> None:
    longest = "".join(chr(0x4E00 + 7 * number) for number in range(1024))
    start = time.process_time()
    password_policy.check_new(longest, username="alice " * 40, display_name="Alice " * 40)

    assert time.process_time() - start < 0.5


def test_an_api_key_is_no_password() -> None:
    assert "kysk_" in refusal(api_key_format.generate())


def test_a_refusal_does_not_repeat_the_password() -> None:
    for password in ("topsecret\ud800" * 3, "topsecret1234567", "topsecret"):
        with pytest.raises(errors.Invalid) as raised:
            password_policy.check_new(password, username="alice")
        assert "topsecret" not in str(raised.value)
        assert raised.value.__context__ is None


def test_the_blocklist_is_loaded_whole_and_without_the_rest_of_its_package() -> None:
    program = (
        "import sys; from keyosk.credentials import password_policy;"
        "assert 'zxcvbn' not in sys.modules;"
        "assert len(password_policy._common_passwords()) == 30_000;"
        "assert not [name for name in sys.modules if name.startswith('zxcvbn')]"
    )
    result = execute([sys.executable, "-c", program])

    assert result.returncode == 0, result.stderr


def test_generated_passwords_are_readable_and_pass() -> None:
    passwords = [password_hashing.generate() for _ in range(200)]

    assert len(set(passwords)) == 200
    for password in passwords:
        assert [len(group) for group in password.split("-")] == [5] * 6
        assert set(password) <= set("abcdefghjkmnpqrstuvwxyz23456789-")
        for username in ("admin", "a", "x7"):
            password_policy.check_new(password, username=username)
