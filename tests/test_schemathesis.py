"""Schemathesis, a tool of others, holds the API against our own description of it."""

import sys
from pathlib import Path

import pytest

from live import Client, LiveServer
from people import PASSWORD, make_key, make_person, ok
from processes import execute

pytestmark = [pytest.mark.attack, pytest.mark.slow]

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "negative_data_rejection"),
    *("unsupported_method", "allow_header_conformance"),
)
#: All that refuses; the tool's own list has neither 412 nor what the server refuses unread.
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413, 414, 415, 422, 429]
"""
#: What would end the caller's own login, which the tool finds in lists: asked by key, at the end.
ENDING = (
    *("patch_accounts_account", "delete_accounts_account", "delete_accounts_account_tokens"),
    *("put_accounts_account_password", "delete_accounts_account_password"),
)
#: Its body is no JSON but lines of it, which the tool cannot make.
BEYOND = "post_accounts_import"
_SECONDS = "25"


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_what_the_description_says_holds(own_server: LiveServer, tmp_path: Path, mode: str) -> None:
    own_server.start()
    caller = make_person(own_server.admin(), "keyosk:admin")
    _, secret = make_key(own_server.admin(), caller)
    form = {"audience": "keyosk"}
    token = ok(caller.login(PASSWORD).post("/auth/token", data=form))["access_token"]
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)

    left_out = [word for name in (*ENDING, BEYOND) for word in ("--exclude-operation-id", name)]
    bearer = ["--header", f"Authorization: Bearer {token}", *left_out]
    # There is no wrong text for a parameter that may be any: fuzzing gives up on those.
    phases = "examples,coverage,fuzzing" if mode == "positive" else "examples,coverage"
    basic = ["--auth", f"{caller.username}:{secret}"]
    last = [word for name in ENDING for word in ("--include-operation-id", name)]
    for options in (bearer, [*basic, *last]):
        result = execute(
            [
                *(sys.executable, "-c", "from schemathesis.cli import schemathesis as s; s()"),
                *("run", f"{own_server.url}/openapi.json", "--url", own_server.url),
                *("--mode", mode, "--phases", phases, "--seed", "1"),
                *("--max-time", _SECONDS, "--max-examples", "20", "--checks", ",".join(CHECKS)),
                *(
                    "--generation-database",
                    "none",
                    "--suppress-health-check",
                    "filter_too_much",
                    *options,
                ),
            ],
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert b"a request failed" not in own_server.log.read_bytes()
    assert Client(own_server.url).get("/health/ready").status_code == 200
