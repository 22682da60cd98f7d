"""keyosk issuer and keyosk rule, and what somebody sees who tries a token."""

import json
from typing import Any

from live import LiveServer, unique
from people import ok
from platforms import AUDIENCE, Platform


def run(server: LiveServer, *arguments: str, text: str = "", code: int = 0) -> str:
    result = server.run(*arguments, text=text)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def show_json(server: LiveServer, *arguments: str) -> Any:
    return json.loads(run(server, *arguments, "--json"))


def test_from_nothing_to_a_login(server: LiveServer, ci: Platform) -> None:
    service, account, name = unique("shop"), unique("deployer"), unique("ci")
    run(server, "service", "create", service, "--scope", f"{service}:deploy")
    run(server, "service", "set", service, "--accepts", "any")
    run(server, "account", "create", account, "--kind", "machine")
    run(server, "grant", "add", account, f"{service}:deploy", "--with", "workload")
    trust = ("--preset", "github", "--issuer", ci.issuer, "--audience", AUDIENCE)
    explain = ("token", "explain", account, "--scope", f"{service}:deploy")
    assert f"has   {service}:deploy" in run(server, *explain, "--workload")
    assert "no password" in run(server, *explain)
    run(server, *explain, "--workload", "--api-key", "x", code=2)
    output = run(server, "issuer", "create", name, *trust, "--allow-private")
    assert "repository_id stays the same" in output
    claims = ("--claim", "repository_id=842913401", "--claim", "ref=refs/tags/*")
    run(server, "rule", "create", name, "deploy", "--account", account, *claims)

    token = ci.token()
    output = run(server, "issuer", "test", text=token, code=1)
    assert f"issuer {name}: the token is verified" in output
    assert 'ref is "refs/heads/main", not "refs/tags/*"' in output
    assert "no rule lets it log in" in output
    run(server, "rule", "set", name, "deploy", *claims, "--claim", "ref=refs/heads/main")
    output = run(server, "issuer", "test", text=token)
    assert f"It would log in as {account} by the rule deploy." in output
    assert token not in output

    data = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": token}
    assert ok(server.client().post("/auth/token", data=data))["scope"] == f"{service}:deploy"

    for unchanged in (("service", service), ("issuer", name), ("rule", name, "deploy")):
        noun, *names = unchanged
        assert "nothing to change" in run(server, noun, "set", *names, code=2)
    run(server, "rule", "set", name, "deploy", "--without-claim", "ref", "--disabled", "--once")
    rule = show_json(server, "rule", "show", name, "deploy")
    assert (rule["claims"], rule["enabled"], rule["once"]) == (
        {"repository_id": "842913401"},
        False,
        True,
    )
    assert [each["name"] for each in show_json(server, "rule", "list", name)["items"]] == ["deploy"]
    assert "(disabled)" in run(server, "issuer", "test", name, text=token, code=1)
    assert "rules deploy" in run(server, "issuer", "delete", name, code=1)
    run(server, "rule", "delete", name, "deploy")
    run(server, "issuer", "delete", name)
    assert name not in run(server, "issuer", "list")


def test_values_that_are_not_text(server: LiveServer) -> None:
    name, account = unique("ci"), unique("deployer")
    run(server, "account", "create", account, "--kind", "machine")
    run(server, "issuer", "create", name, "--issuer", f"https://{name}.example.com")
    claims = ("--claim", "protected:=true", "--claim", "n:=7", "--claim", "flag=true")
    run(server, "rule", "create", name, "r", "--account", account, *claims)
    rule = show_json(server, "rule", "show", name, "r")
    assert rule["claims"] == {"protected": True, "n": 7, "flag": "true"}
    for wrong in ("novalue", "n:=seven"):
        run(server, "rule", "create", name, "x", "--account", account, "--claim", wrong, code=2)


def test_keys_from_a_file(server: LiveServer, ci: Platform) -> None:
    name = unique("cluster")
    path = server.folder / f"{name}.json"
    path.write_text(json.dumps({"keys": ci.keys}))
    create = ("issuer", "create", name, "--issuer", "urn:cluster:" + name)
    assert "issuer" in run(server, *create, code=1)
    run(server, *create, "--keys", str(path))
    assert show_json(server, "issuer", "show", name)["keys"] == {"keys": ci.keys}
    changes = ("--audience", "other", "--disabled", "--reset", "description")
    run(server, "issuer", "set", name, *changes)
    assert show_json(server, "issuer", "show", name)["enabled"] is False
    for wrong in ("{", "[" * 100_000, '{"keys": [], "keys": []}'):
        path.write_text(wrong)
        assert "not a JWK set" in run(server, "issuer", "set", name, "--keys", str(path), code=1)


def test_a_text_that_is_no_token(server: LiveServer) -> None:
    for text in ("", "x", "a.b.c", "a.e30.c"):
        output = run(server, "issuer", "test", text=text, code=1)
        assert "not a JWT" in output or "No issuer here" in output
