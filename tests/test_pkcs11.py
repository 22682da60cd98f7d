"""Signing keys in an HSM, by PKCS#11: against a real SoftHSM, on both databases."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import joserfc.jwk
import joserfc.jwt
import jwt
import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from installed import Clock, rows_of
from keyosk import app, config
from keyosk.errors import ConfigurationError, Conflict, Invalid, Unavailable
from keyosk.installation import Installation
from keyosk.keys import jws, material
from keyosk.keys.hsm import REFERENCE, Hsm, HsmKey
from keyosk.keys.key_set import Signer
from keyosk.keys.material import Safe
from keyosk.keys.private_keys import PrivateKeys
from keyosk.model import OPERATOR, OWN_SET_ALGORITHMS, KeyState, SigningKey
from live import ADMIN_PASSWORD, SECRET_KEY, Client, LiveServer, command
from processes import execute
from softhsm import LABEL, PIN, SoftHsm, soft_hsm

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "hsm.md"
ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")
AHEAD, RETAIN, LIFETIME, DAY = 900, 900, 900, 86_400
OTHER_SECRET = "another-secret-key-of-this-test-and-of-no-other"


@pytest.fixture
def soft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """An empty token, which this process and those that it starts see."""
    token = soft_hsm(tmp_path)
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.configuration))
    return token


def opened(soft: SoftHsm, *, token: str = LABEL, pin: str = PIN) -> Hsm:
    return Hsm(soft.module, token, pin)


@pytest.fixture
def hsm(soft: SoftHsm) -> Iterator[Hsm]:
    opened_hsm = opened(soft)
    yield opened_hsm
    opened_hsm.close()


Build = Callable[..., Installation]


@pytest.fixture
def clock() -> Clock:
    # PyJWT has the real clock: tokens must not be from the future.
    return Clock(int(time.time()) - 400 * DAY)


@pytest.fixture
def build(database_url: str, soft: SoftHsm, clock: Clock) -> Iterator[Build]:
    """Sets up and opens an installation, with the HSM or without; each as a new process would."""
    built: list[Installation] = []

    def build_it(*, with_hsm: bool = True, **variables: str) -> Installation:
        read = config.load(
            {
                "KEYOSK_DATABASE_URL": database_url,
                "KEYOSK_SECRET_KEY": SECRET_KEY,
                "KEYOSK_ADMIN_PASSWORD": ADMIN_PASSWORD,
                "KEYOSK_KEY_PUBLISH_AHEAD": str(AHEAD),
                **(soft.variables if with_hsm else {}),
                **variables,
            }
        )
        app.prepare(read, clock=clock)
        installation = Installation(read, clock=clock)
        built.append(installation)
        installation.signing_keys.refresh()
        return installation

    yield build_it
    for installation in built:
        installation.signing_keys.close()
        installation.database.close()


def signing(keyosk: Installation) -> Signer:
    return keyosk.signing_keys.signer(None)


def signed(keyosk: Installation) -> str:
    now = int(time.time())
    claims = {"iss": keyosk.issuer, "aud": "todo", "iat": now, "exp": now + 600}
    return jws.signed(signing(keyosk), claims, "at+jwt")


def in_hsm(key: SigningKey) -> bool:
    """Whether what is stored of the private half is a reference, and nothing else."""
    return Safe([SECRET_KEY]).open(key.sealed, name=key.kid) == REFERENCE


@contextmanager
def raw_session(soft: SoftHsm) -> Iterator[Any]:
    """What the token says to somebody who has the PIN."""
    library = pkcs11.lib(soft.module)
    try:
        yield library.get_token(token_label=LABEL).open(user_pin=PIN)
    finally:
        library.finalize()


def labels(soft: SoftHsm) -> list[str]:
    with raw_session(soft) as session:
        wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        return sorted(key[Attribute.LABEL] for key in session.get_objects(wanted))


def until(act: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
    """What ``act`` gives once it is right: the HSM is tried again after a rest."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(Unavailable):
            result = act()
            if is_right(result):
                return result
        time.sleep(0.05)
    raise AssertionError("it did not come right")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return execute([sys.executable, "-c", code, *arguments])


# --- The key itself -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # for a name that nobody reads yet
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.slow
def test_two_libraries_accept_what_a_key_of_the_hsm_signs(hsm: Hsm, algorithm: str) -> None:
    public = hsm.make(algorithm)
    signer = Signer(public["kid"], algorithm, HsmKey(hsm, public["kid"], algorithm), 0, public)
    text = jws.signed(signer, {"a": 1}, "JWT")
    assert len(text) == jws.length(signer, {"a": 1}, "JWT")
    assert jwt.decode(text, jwt.PyJWK(public), algorithms=[algorithm]) == {"a": 1}
    key = joserfc.jwk.import_key({**public})
    registry = joserfc.jws.JWSRegistry(algorithms=[algorithm])
    assert joserfc.jwt.decode(text, key, registry=registry).claims == {"a": 1}
    assert public == material.public_jwk(material.public_key(public), algorithm)


@pytest.mark.attack
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_cannot_leave_the_token(soft: SoftHsm, hsm: Hsm, algorithm: str) -> None:
    kid = hsm.make(algorithm)["kid"]
    hsm.close()
    secret = {
        "ES256": Attribute.VALUE,
        "EdDSA": Attribute.VALUE,
        "RS256": Attribute.PRIVATE_EXPONENT,
        "PS256": Attribute.PRIVATE_EXPONENT,
    }[algorithm]
    with raw_session(soft) as session:
        (key,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        assert (key[Attribute.LABEL], key[Attribute.ID]) == (kid, kid.encode())
        for attribute in ("TOKEN", "PRIVATE", "SENSITIVE", "ALWAYS_SENSITIVE", "SIGN"):
            assert key[Attribute[attribute]] is True, attribute
        assert key[Attribute.NEVER_EXTRACTABLE] is True
        for attribute in ("EXTRACTABLE", "DECRYPT", "UNWRAP", "DERIVE"):
            assert key[Attribute[attribute]] is False, attribute
        with pytest.raises(pkcs11.AttributeSensitive):
            key[secret]
        with pytest.raises((pkcs11.AttributeReadOnly, pkcs11.PKCS11Error)):
            key[Attribute.EXTRACTABLE] = True


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from keyosk.keys.hsm import Hsm
kid = sys.argv[4]
parts = [Hsm(*sys.argv[1:4]) for _ in range(8)]

def sign(number):
    hsm = parts[number % 8]
    assert hsm.has(kid)
    return hsm.sign(kid, "RS256", b"x")

with ThreadPoolExecutor(8) as pool:
    assert len(set(pool.map(sign, range(400)))) == 1
"""


@pytest.mark.slow
def test_no_two_threads_are_in_the_module_at_once(soft: SoftHsm, hsm: Hsm) -> None:
    """Without the lock SoftHSM, which is told of no threads, loses its way or the process."""
    result = run_python(THREADS, soft.module, LABEL, PIN, hsm.make("RS256")["kid"])
    assert result.returncode == 0, result.stderr


def test_threads_of_one_process_sign_with_one_key(hsm: Hsm) -> None:
    public = hsm.make("ES256")
    signer = Signer(public["kid"], "ES256", HsmKey(hsm, public["kid"], "ES256"), 0, public)

    def sign(number: int) -> str:
        return jws.signed(signer, {"n": number}, "JWT")

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(sign, range(400)))
    key = jwt.PyJWK(public)
    assert [jwt.decode(text, key, algorithms=["ES256"])["n"] for text in texts] == list(range(400))


FORK = """
import os, signal, sys, threading, warnings
from keyosk.keys import hsm as module
hsm = module.Hsm(*sys.argv[1:4])
kid = sys.argv[4]
mine = hsm.sign(kid, "RS256", b"x")
held, done = threading.Event(), threading.Event()

def hold():
    with module._modules.lock:  # as a thread that is signing
        held.set()
        done.wait()

threading.Thread(target=hold).start()
held.wait()
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(0 if hsm.sign(kid, "RS256", b"x") == mine else 1)
done.set()
assert os.waitpid(child, 0)[1] == 0
assert hsm.sign(kid, "RS256", b"x") == mine
"""


@pytest.mark.slow
def test_a_process_and_its_fork_both_sign(soft: SoftHsm, hsm: Hsm) -> None:
    result = run_python(FORK, soft.module, LABEL, PIN, hsm.make("RS256")["kid"])
    assert result.returncode == 0, result.stderr


@pytest.mark.fault
def test_sessions_that_were_lost_are_opened_again(soft: SoftHsm, hsm: Hsm) -> None:
    kid = hsm.make("RS256")["kid"]
    before = hsm.sign(kid, "RS256", b"x")
    pkcs11.lib(soft.module).finalize()  # as by a reset: every session of the process is gone
    assert hsm.sign(kid, "RS256", b"x") == before


@pytest.mark.fault
def test_a_token_that_was_away_is_used_again(soft: SoftHsm, hsm: Hsm) -> None:
    kid = hsm.make("RS256")["kid"]
    before = hsm.sign(kid, "RS256", b"x")
    soft.take_away()
    for _ in range(2):
        with pytest.raises(Unavailable, match="PKCS#11"):
            hsm.sign(kid, "RS256", b"x")
    soft.bring_back()
    until(lambda: hsm.sign(kid, "RS256", b"x"), lambda signature: signature == before)


@pytest.mark.slow
def test_two_parts_of_a_process_may_use_one_token(soft: SoftHsm, hsm: Hsm) -> None:
    other = opened(soft)
    kid = hsm.make("RS256")["kid"]
    signature = other.sign(kid, "RS256", b"x")
    other.close()
    assert hsm.sign(kid, "RS256", b"x") == signature


def test_a_key_that_is_not_in_the_token_does_not_sign(hsm: Hsm) -> None:
    with pytest.raises(Unavailable, match="not in the PKCS#11 token"):
        hsm.sign("A" * 43, "ES256", b"x")
    kid = hsm.make("ES256")["kid"]  # and the others go on at once
    assert len(hsm.sign(kid, "ES256", b"x")) == 64
    hsm.destroy(kid)
    with pytest.raises(Unavailable):
        hsm.sign(kid, "ES256", b"x")
    hsm.destroy(kid)  # once more is no fault


@pytest.mark.parametrize(
    ("changed", "setting", "message"),
    [
        ({"pin": "wrong"}, "KEYOSK_PKCS11_PIN", "is wrong"),
        ({"token": "nobody"}, "KEYOSK_PKCS11_TOKEN", "any token"),
        ({"module": "/nowhere/module.so"}, "KEYOSK_PKCS11_MODULE", "cannot be used"),
        ({"module": sys.executable}, "KEYOSK_PKCS11_MODULE", "cannot be used"),
    ],
)
def test_a_token_that_cannot_be_opened_is_refused(
    soft: SoftHsm, changed: dict[str, str], setting: str, message: str
) -> None:
    wrong = Hsm(**{"module": soft.module, "token": LABEL, "pin": PIN, **changed})
    with pytest.raises(ConfigurationError) as refusal:
        wrong.check()
    wrong.close()
    (fault,) = refusal.value.faults
    assert fault.field == setting
    assert message in fault.message
    assert PIN not in str(refusal.value)


def test_two_tokens_of_one_label_are_refused(soft: SoftHsm, hsm: Hsm) -> None:
    soft.initialise()
    with pytest.raises(ConfigurationError, match="more than one"):
        hsm.check()


@pytest.mark.attack
def test_a_wrong_pin_is_tried_once(soft: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token locks after a few; every request would be one more."""
    monkeypatch.setattr("keyosk.keys.hsm.REST", 0.0)
    hsm = opened(soft, pin="another")
    with pytest.raises(Unavailable):
        hsm.has("x")
    soft.take_away()
    soft.tokens.mkdir()
    soft.initialise(pin="another")  # even if it were right now: only a start tries it again
    hsm.close()
    with pytest.raises(Unavailable):
        hsm.has("x")
    hsm.check()
    assert not hsm.has("x")
    hsm.close()


def test_no_repr_shows_the_pin(hsm: Hsm) -> None:
    key = HsmKey(hsm, "kid", "ES256")
    assert PIN not in repr(hsm) + repr(key) + repr(PrivateKeys(Safe([SECRET_KEY]), hsm))


# --- An installation ------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_new_installation_signs_by_the_hsm(build: Build, soft: SoftHsm, algorithm: str) -> None:
    keyosk = build(KEYOSK_SIGNING_ALGORITHM=algorithm)
    (key,) = keyosk.rotation.all()
    assert (key.algorithm, key.state) == (algorithm, KeyState.ACTIVE)
    assert in_hsm(key)
    text = signed(keyosk)
    document = json.loads(keyosk.signing_keys.current.document.text)
    assert document == {"keys": [dict(key.public)]}
    (found,) = jwt.PyJWKSet.from_dict(document).keys
    assert jwt.decode(text, found, algorithms=[algorithm], audience="todo")["aud"] == "todo"
    keyosk.signing_keys.close()
    assert labels(soft) == [key.kid]


@pytest.mark.attack
def test_no_private_number_is_in_the_database(build: Build) -> None:
    keyosk = build()
    (row,) = rows_of(keyosk, "SELECT * FROM signing_key")
    (key,) = keyosk.rotation.all()
    texts = [each for each in row if isinstance(each, str)]
    blobs = [bytes(each) for each in row if isinstance(each, bytes | memoryview)]
    (sealed,) = (blob for blob in blobs if blob)
    assert Safe([SECRET_KEY]).open(sealed, name=key.kid) == b"pkcs11"
    (public,) = (json.loads(text) for text in texts if text.startswith("{"))
    assert public == dict(key.public)
    assert public.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    # Nor is it to be had from the objects that sign.
    private = keyosk.signing_keys.private_key(key.kid)
    assert isinstance(private, HsmKey)
    assert not hasattr(private, "private_bytes")
    assert not hasattr(private, "private_numbers")


def test_a_changed_secret_key_wraps_the_reference_and_nothing_else(build: Build) -> None:
    keyosk = build(KEYOSK_SECRET_KEY=f"{OTHER_SECRET},{SECRET_KEY}")
    text = signed(keyosk)
    assert keyosk.key_changes.rewrap() == 1
    (key,) = keyosk.rotation.all()
    assert Safe([OTHER_SECRET]).open(key.sealed, name=key.kid) == REFERENCE
    again = build(KEYOSK_SECRET_KEY=OTHER_SECRET)
    assert signing(again).kid == jwt.get_unverified_header(text)["kid"]
    signed(again)


def test_keys_of_the_database_sign_until_a_rotation_makes_one_in_the_hsm(
    build: Build, soft: SoftHsm, clock: Clock
) -> None:
    old = signing(build(with_hsm=False)).kid
    keyosk = build()
    signed(keyosk)
    assert signing(keyosk).kid == old
    assert not isinstance(signing(keyosk).key, HsmKey)

    clock.now += 1
    new = keyosk.rotation.rotate(OPERATOR)
    assert in_hsm(new)
    clock.now += AHEAD
    assert signing(keyosk).kid == new.kid
    signed(keyosk)
    # Another process has it as soon as it reads the table.
    other = build()
    assert signing(other).kid == new.kid
    signed(other)
    keyosk.key_schedule.advance()
    clock.now += LIFETIME + RETAIN
    assert [key.state.value for key in keyosk.rotation.all()] == ["gone", "active"]
    keyosk.signing_keys.close()
    assert labels(soft) == [new.kid]


def test_the_schedule_makes_keys_in_the_hsm_and_destroys_those_that_are_gone(
    build: Build, soft: SoftHsm, clock: Clock
) -> None:
    keyosk = build()
    first = signing(keyosk).kid
    clock.now += 90 * DAY - AHEAD
    (_, second) = keyosk.rotation.all()
    clock.now += AHEAD
    assert signing(keyosk).kid == second.kid
    keyosk.key_schedule.advance()
    clock.now += LIFETIME + RETAIN
    (gone, _) = keyosk.rotation.all()
    assert (gone.kid, gone.state, gone.sealed) == (first, KeyState.GONE, b"")
    keyosk.signing_keys.close()
    assert labels(soft) == [second.kid]


def test_a_compromised_key_is_destroyed_and_the_next_one_is_made_in_the_hsm(
    build: Build, soft: SoftHsm
) -> None:
    keyosk = build()
    bad = signing(keyosk).kid
    assert keyosk.rotation.compromise(OPERATOR, bad).sealed == b""
    new = signing(keyosk).kid
    assert new != bad
    signed(keyosk)
    keyosk.signing_keys.close()
    assert labels(soft) == [new]


@pytest.mark.fault
def test_a_key_that_is_gone_while_the_hsm_is_away_is_destroyed_later(
    build: Build, soft: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyosk.keys.private_keys._DESTROY_AGAIN", 0.1)
    keyosk = build()
    following = keyosk.rotation.rotate(OPERATOR).kid
    soft.take_away()
    (left,) = (key for key in keyosk.rotation.all() if key.kid == following)
    retired = keyosk.rotation.retire(OPERATOR, following)
    assert (left.state, retired.state) == (KeyState.NEXT, KeyState.GONE)
    assert in_hsm(retired)
    soft.bring_back()
    until(lambda: keyosk.rotation.get(following), lambda key: not key.sealed)
    keyosk.signing_keys.close()
    assert labels(soft) == [signing(build()).kid]


@pytest.mark.fault
@pytest.mark.parametrize("is_known", [True, False])
def test_while_the_hsm_is_away_the_old_key_of_the_database_goes_on(
    build: Build, soft: SoftHsm, clock: Clock, is_known: bool
) -> None:
    old = signing(build(with_hsm=False)).kid
    keyosk = build()
    if is_known:  # what the token can make
        keyosk.services.create(OPERATOR, name="todo", signing_algorithm="ES256")
    soft.take_away()
    clock.now += 90 * DAY
    assert [key.kid for key in keyosk.rotation.all()] == [old]
    signed(keyosk)
    with pytest.raises(Unavailable):
        keyosk.rotation.rotate(OPERATOR)
    soft.bring_back()
    (_, following) = until(keyosk.rotation.all, lambda keys: len(keys) == 2)
    assert in_hsm(following)


def test_a_key_from_elsewhere_lies_in_the_database_also_with_an_hsm(
    build: Build, soft: SoftHsm, clock: Clock
) -> None:
    keyosk = build()
    brought = keyosk.rotation.import_key(OPERATOR, material.generate("ES256"), "ES256")
    clock.now += AHEAD
    assert signing(keyosk).kid == brought.kid
    assert not in_hsm(brought)
    signed(keyosk)
    keyosk.signing_keys.close()
    assert brought.kid not in labels(soft)


@pytest.mark.parametrize("algorithm", OWN_SET_ALGORITHMS)
def test_algorithms_that_the_token_does_not_know_are_refused(build: Build, algorithm: str) -> None:
    keyosk = build()
    keyosk.services.create(OPERATOR, name="todo")
    refused: list[Callable[[], Any]] = [
        lambda: keyosk.rotation.rotate(OPERATOR, algorithm),
        lambda: keyosk.services.create(OPERATOR, name="pq", signing_algorithm=algorithm),
        lambda: keyosk.services.change(OPERATOR, "todo", {"signing_algorithm": algorithm}),
    ]
    for act in refused:
        with pytest.raises(Invalid, match="is not an algorithm that the HSM can make keys for"):
            act()
    assert len(keyosk.rotation.all()) == 1


def test_a_key_of_such_an_algorithm_from_before_goes_on(build: Build, clock: Clock) -> None:
    before = build(with_hsm=False)
    before.services.create(OPERATOR, name="pq", signing_algorithm="ML-DSA-44")
    kid = before.signing_keys.signer("ML-DSA-44").kid
    keyosk = build()
    clock.now += 91 * DAY
    keyosk.key_schedule.advance()
    assert keyosk.signing_keys.signer("ML-DSA-44").kid == kid
    # Out of the set all the same if it must; then there is none, and that is said.
    keyosk.rotation.compromise(OPERATOR, kid)
    with pytest.raises(Unavailable, match="ML-DSA-44"):
        keyosk.signing_keys.signer("ML-DSA-44")
    signed(keyosk)


def test_a_check_of_the_database_looks_into_the_token(build: Build, hsm: Hsm) -> None:
    keyosk = build()
    assert keyosk.signing_keys.unreadable() == []
    kid = signing(keyosk).kid
    hsm.destroy(kid)
    (fault,) = keyosk.signing_keys.unreadable()
    assert fault.startswith(f"{kid} is not at hand in the HSM: KEYOSK_PKCS11_TOKEN")


@pytest.mark.fault
def test_a_check_of_the_database_tells_of_a_token_that_is_away(build: Build, soft: SoftHsm) -> None:
    keyosk = build()
    soft.take_away()
    (fault,) = keyosk.signing_keys.unreadable()
    assert "cannot be used now" in fault


# --- The start ------------------------------------------------------------------------------------


def test_the_set_up_leaves_no_login_for_workers_to_inherit(build: Build, soft: SoftHsm) -> None:
    keyosk = build()
    # A login of this process would refuse this one.
    assert labels(soft) == [key.kid for key in keyosk.signing_keys.all()]


def test_a_key_that_is_not_in_the_token_is_refused_at_the_start(build: Build, hsm: Hsm) -> None:
    keyosk = build()
    kid = signing(keyosk).kid
    hsm.destroy(kid)
    keyosk.signing_keys.close()
    with pytest.raises(ConfigurationError, match="KEYOSK_PKCS11_TOKEN") as refusal:
        build()
    assert kid in str(refusal.value)


def test_missing_settings_for_a_key_in_the_hsm_are_refused_at_the_start(build: Build) -> None:
    build().signing_keys.close()
    with pytest.raises(ConfigurationError, match="KEYOSK_PKCS11_MODULE: is required"):
        build(with_hsm=False)


def test_a_process_without_settings_lives_on_with_a_key_there(build: Build, clock: Clock) -> None:
    old = build(with_hsm=False)
    new = build().rotation.rotate(OPERATOR).kid
    old.signing_keys.refresh()
    clock.now += AHEAD
    assert json.loads(old.signing_keys.current.document.text)["keys"][0]["kid"] == new
    with pytest.raises(Unavailable, match="settings"):
        signed(old)


@pytest.fixture
def own_server(database_url: str, tmp_path: Path, soft: SoftHsm) -> Iterator[LiveServer]:
    server = LiveServer(database_url, tmp_path, workers="2", **soft.settings)
    server.environment["SOFTHSM2_CONF"] = str(soft.configuration)
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("PIN", "wrong", "KEYOSK_PKCS11_PIN: is wrong"),
        ("TOKEN", "nobody", "KEYOSK_PKCS11_TOKEN: is not the label of any token"),
        ("MODULE", "/nowhere/module.so", "KEYOSK_PKCS11_MODULE: cannot be used"),
    ],
)
def test_the_server_does_not_start_without_its_token(
    own_server: LiveServer, setting: str, value: str, message: str
) -> None:
    own_server.environment[f"KEYOSK_PKCS11_{setting}"] = value
    result = own_server.run("serve")
    assert result.returncode == 1
    assert message in result.stderr
    assert PIN not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_workers_and_commands_sign_with_the_same_key(own_server: LiveServer) -> None:
    own_server.start()
    admin = own_server.admin()
    basic = own_server.client("admin", ADMIN_PASSWORD)
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda _: basic.post("/auth/token"), range(12)))
    texts = [response.json()["access_token"] for response in responses]
    texts.append(own_server.run("token", "issue", "admin").stdout.strip())
    keys = {key["kid"]: key for key in admin.get("/auth/jwks").json()["keys"]}
    assert len(keys) == 1
    for text in texts:
        key = keys[jwt.get_unverified_header(text)["kid"]]
        assert jwt.decode(text, jwt.PyJWK(key), algorithms=["ES256"], audience=own_server.url)
    # A worker that takes another's place signs as well.
    os.kill(worker_of(own_server), 9)
    for _ in range(8):
        assert retried(basic).status_code == 200
    (kid,) = keys
    listed = json.loads(own_server.run("signing-key", "list", "--json").stdout)
    assert [key["kid"] for key in listed["items"] if key["state"] == "active"] == [kid]
    result = own_server.run("signing-key", "export", "--x5c")
    assert result.returncode == 1
    assert "in an HSM" in result.stderr
    assert "PRIVATE" not in own_server.run("signing-key", "export").stdout


def worker_of(server: LiveServer) -> int:
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return int(children.read_text().split()[0])


def retried(client: Client) -> Any:
    """One more try for a connection that died with its worker."""
    try:
        return client.post("/auth/token")
    except OSError:
        return client.post("/auth/token")


@pytest.mark.slow
@pytest.mark.fault
def test_a_server_whose_token_is_away_answers_503(own_server: LiveServer, soft: SoftHsm) -> None:
    own_server.start()
    basic = own_server.client("admin", ADMIN_PASSWORD)
    assert basic.post("/auth/token").status_code == 200
    soft.take_away()
    response = basic.post("/auth/token")
    assert response.status_code == 503
    assert basic.get("/auth/jwks").status_code == 200
    soft.bring_back()
    until(lambda: basic.post("/auth/token"), lambda response: response.status_code == 200)
    log = own_server.log.read_text()
    assert "PKCS#11" in log
    assert PIN not in log


@pytest.mark.slow
def test_the_lines_of_the_documentation_make_the_next_key_in_the_token(
    own_server: LiveServer, soft: SoftHsm, tmp_path: Path
) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    shutil.rmtree(soft.tokens)
    soft.tokens.mkdir()
    for name in ("MODULE", "TOKEN", "PIN"):
        del own_server.environment[f"KEYOSK_PKCS11_{name}"]
    own_server.start()
    (old,) = own_server.client().get("/auth/jwks").json()["keys"]
    pin = tmp_path / "pkcs11_pin"
    pin.write_text(PIN)
    keyosk = f'keyosk() {{ {shlex.join(command())} "$@"; }}\n'
    script = script.replace("/usr/lib/softhsm/libsofthsm2.so", soft.module)
    result = execute(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            keyosk + script.replace("/run/secrets/pkcs11_pin", str(pin)),
        ],
        cwd=own_server.folder,
        env={**own_server.environment, "PIN": PIN, "SO_PIN": f"so-{PIN}"},
    )
    assert result.returncode == 0, result.stderr
    keys = until(
        lambda: own_server.client().get("/auth/jwks").json()["keys"], lambda keys: len(keys) == 2
    )
    assert labels(soft) == [key["kid"] for key in keys if key != old]


# --- The extra ------------------------------------------------------------------------------------


def test_the_binding_is_not_imported_where_nothing_needs_it() -> None:
    result = run_python("import sys, keyosk.cli; sys.exit('pkcs11' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_a_missing_extra_is_named(soft: SoftHsm) -> None:
    code = "import sys; sys.modules['pkcs11'] = None; from keyosk.keys.hsm import Hsm; "
    result = run_python(code + f"Hsm({soft.module!r}, 'a', 'b').check()")
    assert "KEYOSK_PKCS11_MODULE: needs the extra pkcs11" in result.stderr
    use = f"Hsm({soft.module!r}, 'a', 'b').has('x')"
    assert "keyosk.errors.Unavailable" in run_python(code + use).stderr


def test_a_key_that_was_not_stored_does_not_stay_in_the_token(build: Build, soft: SoftHsm) -> None:
    keyosk = build()
    other = build()
    following = other.rotation.rotate(OPERATOR).kid
    other.signing_keys.close()

    with pytest.raises(Conflict):  # it has not read that the other was faster
        keyosk.rotation.rotate(OPERATOR)
    keyosk.signing_keys.close()
    assert labels(soft) == sorted([signing(keyosk).kid, following])
