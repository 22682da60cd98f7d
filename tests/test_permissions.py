"""What a login may have, as properties that hold for every login and every request."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import values
from keyosk.errors import Invalid, InvalidScope, InvalidTarget
from keyosk.model import (
    ADMIN,
    KEYOSK,
    KEYOSK_SCOPES,
    CredentialKind,
    Entitlement,
    Principal,
    TokenPolicy,
)
from keyosk.permissions import entitlements
from tables import table

# A busy machine may take its time over one example.
thorough = settings(max_examples=40, deadline=None)
NOW = 1_800_000_000
SERVICES = {
    "todo": ("https://todo.example", ("todo:read", "todo:write")),
    "mail": ("mail", ("mail:send", "mail:read")),
    KEYOSK: (KEYOSK, tuple(KEYOSK_SCOPES)),
}
BOTH = frozenset(CredentialKind)
SCOPES = [scope for _, scopes in SERVICES.values() for scope in scopes]
TOKEN_CHARACTERS = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\')


def policy(name: str, **changes: object) -> TokenPolicy:
    own = {"audience": SERVICES[name][0], "on_request_only": name == KEYOSK}
    return values.policy(name, **{**own, **changes})


def entitlement(
    scope: str, *, service: TokenPolicy | None = None, **changes: object
) -> Entitlement:
    name = next(name for name, (_, scopes) in SERVICES.items() if scope in scopes)
    held = Entitlement(
        scope=scope, role=None, credential=None, until=None, service=service or policy(name)
    )
    return replace(held, **changes)  # type: ignore[arg-type]


def principal(*entitlements: Entitlement, **changes: object) -> Principal:
    return values.principal(*entitlements, **{"authenticated_at": NOW, **changes})


@st.composite
def logins(draw: st.DrawFn) -> Principal:
    """Any login: services disabled or choosy, grants repeated, conditional or expired."""
    services = {
        name: policy(
            name,
            enabled=draw(st.sampled_from([True, True, False])),
            accepts=draw(st.sampled_from([BOTH, BOTH, *map(frozenset, zip(BOTH))])),
        )
        for name in SERVICES
    }
    held = [
        entitlement(
            scope,
            role=draw(st.sampled_from([None, "reader", "editor"])),
            credential=draw(st.sampled_from([None, *CredentialKind])),
            until=draw(st.none() | st.integers(NOW - 2, NOW + 2)),
        )
        for scope in draw(st.lists(st.sampled_from(SCOPES), max_size=12))
    ]
    return principal(
        *(replace(item, service=services[item.service.name]) for item in held),
        credential=draw(st.sampled_from(list(CredentialKind))),
        limit=draw(st.none() | st.frozensets(st.sampled_from(SCOPES))),
        expires_at=draw(st.none() | st.integers(NOW + 1, NOW + 9)),
    )


def find(target: str) -> TokenPolicy | None:
    for name, (audience, _) in SERVICES.items():
        if target in (audience, name):
            return policy(name)
    return None


def entitled(
    who: Principal, scopes: tuple[str, ...] | None = None, targets: tuple[str, ...] = ()
) -> entitlements.TokenGrant:
    return entitlements.token_grant(who, now=NOW, scopes=scopes, targets=targets, find_policy=find)


def counting(who: Principal) -> dict[str, Entitlement]:
    """What a login has by the words of the design, written down a second time."""
    counted: dict[str, Entitlement] = {}
    for item in who.entitlements:
        if (
            item.service.enabled
            and who.credential in item.service.accepts
            and item.credential in (None, who.credential)
            and (item.until is None or item.until > NOW)
        ):
            best = max(
                (counted.get(item.scope, item), item),
                key=lambda each: NOW * 2 if each.until is None else each.until,
            )
            counted[item.scope] = best
    implied = dict.fromkeys(KEYOSK_SCOPES, counted[ADMIN]) if ADMIN in counted else {}
    return implied | counted


def allowed(who: Principal) -> set[str]:
    """The same within the limit of the API key; a limit to ``keyosk:admin`` is one to all of it."""
    if who.limit is None:
        return set(counting(who))
    within = counting(who).keys() & who.limit
    return within | (set(KEYOSK_SCOPES) if ADMIN in within else set())


# --- What a token carries -------------------------------------------------------------------------


@thorough
@given(logins())
def test_a_token_without_wishes_has_only_what_is_held_and_within_the_limit(who: Principal) -> None:
    given_scopes = set(entitled(who).scopes)
    assert given_scopes <= allowed(who)
    held = {item.scope for item in who.entitlements}
    # Implied scopes come only on request, unless a limit names them.
    assert given_scopes <= held | (who.limit or set())


@thorough
@given(logins())
def test_a_token_without_wishes_has_all_that_counts_but_what_waits_for_one(who: Principal) -> None:
    held = {item.scope for item in who.entitlements if not item.service.on_request_only}
    assert set(entitled(who).scopes) == allowed(who) & held


@thorough
@given(logins(), st.lists(st.sampled_from(SCOPES), unique=True).map(tuple))
def test_a_token_has_exactly_the_scopes_asked_for(who: Principal, asked: tuple[str, ...]) -> None:
    if set(asked) <= allowed(who):
        assert entitled(who, asked).scopes == asked
    else:
        with pytest.raises(InvalidScope):
            entitled(who, asked)


@thorough
@given(
    logins(),
    st.none() | st.lists(st.sampled_from(SCOPES), unique=True).map(tuple),
    st.lists(st.sampled_from(["todo", "https://todo.example", "mail", KEYOSK])).map(tuple),
)
def test_the_audiences_are_those_asked_for_and_else_those_of_the_scopes(
    who: Principal, asked: tuple[str, ...] | None, targets: tuple[str, ...]
) -> None:
    try:
        given_to = entitled(who, asked, targets)
    except InvalidScope:
        assume(False)
        raise
    audience_of = {scope: audience for audience, scopes in SERVICES.values() for scope in scopes}
    wanted = {SERVICES["todo" if "todo" in target else target][0] for target in targets}
    of_scopes = {audience_of[scope] for scope in given_to.scopes}
    assert len(set(given_to.audiences)) == len(given_to.audiences)
    assert set(given_to.audiences) == (wanted or of_scopes)
    assert of_scopes <= set(given_to.audiences)


@thorough
@given(logins(), st.data())
def test_a_token_lives_no_longer_than_its_grants_and_its_credential(
    who: Principal, data: st.DataObject
) -> None:
    asked = tuple(data.draw(st.sets(st.sampled_from(sorted(allowed(who)) or SCOPES[:1]))))
    assume(set(asked) <= allowed(who))
    held = counting(who)
    # Where the key's limit names only keyosk:admin, that grant is what gives the scope.
    givers = [scope if who.limit is None or scope in who.limit else ADMIN for scope in asked]
    bounds = {who.expires_at, *(held[giver].until for giver in givers)} - {None}
    assert entitled(who, asked).expires_at == min(bounds, default=None)  # type: ignore[type-var]


def test_a_key_limited_to_admin_has_each_scope_for_as_long_as_admin() -> None:
    """Found by chance: the model above took the end of a grant that the limit leaves out."""
    who = principal(
        entitlement(ADMIN),
        entitlement("keyosk:accounts:read", until=NOW + 1),
        credential=CredentialKind.API_KEY,
        limit=frozenset({ADMIN}),
    )
    assert entitled(who, ("keyosk:accounts:read",)).expires_at is None
    assert entitled(replace(who, limit=None), ("keyosk:accounts:read",)).expires_at == NOW + 1


def test_a_login_that_holds_nothing_gets_a_token_that_says_only_who_it_is() -> None:
    nothing = entitled(principal())
    assert (nothing.scopes, nothing.audiences) == ((), ())


def test_an_audience_that_is_asked_for_is_given_even_where_no_scope_is_held() -> None:
    bare = entitled(principal(), targets=("todo",))
    assert (bare.scopes, bare.audiences) == ((), ("https://todo.example",))


def test_a_scope_of_another_audience_than_the_one_asked_for_is_refused() -> None:
    who = principal(entitlement("todo:read"), entitlement("mail:read"))
    with pytest.raises(InvalidScope, match="mail:read"):
        entitled(who, ("todo:read", "mail:read"), ("todo",))


@table("target", ["nowhere", "", "todo:read", "TODO"])
def test_an_audience_that_does_not_exist_is_refused(target: str) -> None:
    with pytest.raises(InvalidTarget):
        entitled(principal(entitlement("todo:read")), targets=(target,))


def test_a_disabled_service_is_no_audience() -> None:
    disabled = policy("todo", enabled=False)
    with pytest.raises(InvalidTarget):
        entitlements.token_grant(
            principal(entitlement("todo:read", service=disabled)),
            now=NOW,
            targets=("todo",),
            find_policy=lambda _: disabled,
        )


def test_a_service_that_does_not_take_this_login_is_no_audience() -> None:
    choosy = policy("todo", accepts=frozenset({CredentialKind.PASSWORD}))
    who = principal(entitlement("todo:read", service=choosy))
    by_key = replace(who, credential=CredentialKind.API_KEY)
    for target in ("todo", choosy.audience):
        assert entitlements.token_grant(
            who, now=NOW, targets=(target,), find_policy=lambda _: choosy
        ).scopes == ("todo:read",)
        with pytest.raises(InvalidTarget):
            entitlements.token_grant(
                by_key, now=NOW, targets=(target,), find_policy=lambda _: choosy
            )
    assert entitled(by_key).scopes == ()


def test_a_token_knows_the_lifetimes_of_its_services_and_of_no_others() -> None:
    who = principal(
        entitlement("todo:read", service=policy("todo", token_lifetime=600)),
        entitlement("mail:read", service=policy("mail", token_lifetime=60)),
        entitlement("keyosk:keys:read"),
    )
    assert entitled(who).lifetimes == {600, 60}
    assert entitled(who, tuple(item.scope for item in who.entitlements)).lifetimes == {
        600,
        60,
        None,
    }
    assert entitled(who, ("todo:read",)).lifetimes == {600}
    assert entitled(who, ("keyosk:keys:read",)).lifetimes == {None}
    assert entitled(principal(), targets=("todo",)).lifetimes == {None}
    assert entitled(principal()).lifetimes == set()


def test_a_grant_ends_at_its_very_moment() -> None:
    assert entitled(principal(entitlement("todo:read", until=NOW))).scopes == ()
    assert entitled(principal(entitlement("todo:read", until=NOW + 1))).scopes == ("todo:read",)


def test_of_several_grants_of_a_scope_the_one_that_lasts_longest_counts() -> None:
    soon, late = (
        entitlement("todo:read", until=NOW + 5),
        entitlement("todo:read", until=NOW + 9, role="r"),
    )
    forever = entitlement("todo:read", role="editor")
    for held in ((soon, late), (late, soon)):
        assert entitled(principal(*held)).expires_at == NOW + 9
        assert entitled(principal(*held)).roles == ("r",)
    for held in ((soon, forever), (forever, late)):
        assert entitled(principal(*held)).expires_at is None
        assert entitled(principal(*held)).roles == ("editor",)


def test_a_token_names_the_roles_that_gave_its_scopes_and_no_others() -> None:
    who = principal(
        entitlement("todo:read", role="reader"),
        entitlement("todo:write", role="editor"),
        entitlement("mail:read"),
    )
    assert entitled(who).roles == ("reader", "editor")
    assert entitled(who, ("todo:read", "mail:read")).roles == ("reader",)
    assert entitled(who, ("mail:read",)).roles == ()


@table(
    ("name", "one", "other"), [("signing_algorithm", "RS256", "EdDSA"), ("typ", "at+jwt", "JWT")]
)
def test_services_that_differ_in_what_a_token_has_once_get_no_token_together(
    name: str, one: str, other: str
) -> None:
    first = entitlement("todo:read", service=policy("todo", **{name: one}))
    second = entitlement("mail:read", service=policy("mail", **{name: other}))
    assert getattr(entitled(principal(first)), name.removeprefix("signing_")) == one
    assert getattr(entitled(principal(second)), name.removeprefix("signing_")) == other
    with pytest.raises(InvalidTarget, match=name):
        entitled(principal(first, second), ("todo:read", "mail:read"))


def test_services_of_another_format_stay_out_of_a_token_that_asks_for_nothing() -> None:
    usual = entitlement("todo:read", service=policy("todo"))
    other = entitlement("mail:read", service=policy("mail", typ="JWT"))
    assert entitled(principal(usual, other)).scopes == ("todo:read",)
    rsa = entitlement("todo:read", service=policy("todo", signing_algorithm="RS256"))
    edwards = entitlement("mail:read", service=policy("mail", signing_algorithm="EdDSA"))
    with pytest.raises(InvalidTarget, match="signing_algorithm"):
        entitled(principal(rsa, edwards))


def test_a_token_carries_the_claims_that_any_of_its_services_asks_for_once() -> None:
    who = principal(
        entitlement("todo:read", service=policy("todo", claims=("team", "site"))),
        entitlement("mail:read", service=policy("mail", claims=("site", "desk"))),
    )
    assert entitled(who).claims == ("team", "site", "desk")
    assert entitled(who, ("mail:read",)).claims == ("site", "desk")


def test_the_refusal_of_a_scope_does_not_tell_whether_it_exists() -> None:
    who = principal(entitlement("todo:read"))
    with pytest.raises(InvalidScope) as known:
        entitled(who, ("mail:read",))
    with pytest.raises(InvalidScope) as unknown:
        entitled(who, ("mail:none",))
    assert known.value.detail.replace("mail:read", "") == unknown.value.detail.replace(
        "mail:none", ""
    )


# --- keyosk:admin ---------------------------------------------------------------------------------


@thorough
@given(logins())
def test_admin_gives_every_scope_of_keyosk_and_no_scope_of_anybody_else(who: Principal) -> None:
    scopes = entitlements.keyosk_scopes(who, NOW)
    assert scopes <= set(KEYOSK_SCOPES)
    assert scopes == allowed(who) & set(KEYOSK_SCOPES)


def test_admin_may_ask_for_each_scope_that_it_implies_by_name() -> None:
    who = principal(entitlement(ADMIN))
    asked = tuple(KEYOSK_SCOPES)
    assert entitled(who, asked).scopes == asked
    assert entitled(who, asked).audiences == (KEYOSK,)
    with pytest.raises(InvalidScope):
        entitled(who, ("todo:read",))


def test_a_key_limited_to_one_scope_that_admin_implies_has_that_one_alone() -> None:
    who = principal(entitlement(ADMIN), limit=frozenset({"keyosk:accounts:read"}))
    assert entitlements.keyosk_scopes(who, NOW) == {"keyosk:accounts:read"}
    with pytest.raises(InvalidScope):
        entitled(who, (ADMIN,))


def test_admin_by_password_only_is_no_admin_by_api_key() -> None:
    who = principal(
        entitlement(ADMIN, credential=CredentialKind.PASSWORD), credential=CredentialKind.API_KEY
    )
    assert entitlements.keyosk_scopes(who, NOW) == frozenset()


# --- The scope parameter (RFC 6749 section 3.3) ---------------------------------------------------


@thorough
@given(st.lists(st.text(TOKEN_CHARACTERS, min_size=1, max_size=20)))
def test_a_list_of_scope_tokens_is_read_in_order_and_without_repetition(names: list[str]) -> None:
    assert entitlements.parse_scope(" ".join(names)) == tuple(dict.fromkeys(names))


@thorough
@given(st.text(TOKEN_CHARACTERS | st.sampled_from(' \t\n"\\\x7f\x80é'), max_size=30))
def test_any_text_is_either_a_list_of_scope_tokens_or_refused(text: str) -> None:
    parts = text.split(" ") if text else []
    good = all(
        part and all("!" <= character <= "~" and character not in '"\\' for character in part)
        for part in parts
    )
    if good:
        assert entitlements.parse_scope(text) == tuple(dict.fromkeys(parts))
    else:
        with pytest.raises(InvalidScope):
            entitlements.parse_scope(text)


@table(
    "text", [" ", "a  b", " a", "a ", "a\tb", "a\nb", "a\n", 'a"b', "a\\b", "a\x7f", "ä", "a" * 201]
)
def test_what_is_no_list_of_scope_tokens_is_refused(text: str) -> None:
    with pytest.raises(InvalidScope):
        entitlements.parse_scope(text)


@thorough
@given(st.text(TOKEN_CHARACTERS, min_size=1, max_size=200))
def test_a_scope_that_a_service_may_own_can_be_asked_for(name: str) -> None:
    assume(name not in entitlements.RESERVED_SCOPES)
    entitlements.check_scope_name(name, field="scopes")
    assert entitlements.parse_scope(name) == (name,)


@table(
    "name", ["", "a b", 'a"', "a\\", "ä", "a\n", "a" * 201, *sorted(entitlements.RESERVED_SCOPES)]
)
def test_a_name_that_no_service_may_own_is_refused_by_field(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        entitlements.check_scope_name(name, field="scopes")
    assert [fault.field for fault in caught.value.faults] == ["scopes"]
