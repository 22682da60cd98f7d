"""A shop that calls billing on behalf of its caller, by token exchange (RFC 8693).

A caller's token is for the shop, so billing refuses it. The shop's account exchanges it for one
that is for billing and still names the caller. Tokens are kept until shortly before they expire.

Settings, from the environment: ``SHOP_BIND`` (``127.0.0.1:8082``), ``KEYOSK_URL``
(``http://127.0.0.1:8080``), ``BILLING_URL`` (``http://127.0.0.1:8083``), and the API key of
``shop-backend`` in ``KEYOSK_CLIENT_SECRET`` or in the file that ``KEYOSK_CLIENT_SECRET_FILE``
names. It needs flask and ``keyosk-client``.
"""

import os
from typing import Any

import httpx
from flask import Flask

from keyosk_client import LoginRefused, TokenSource, TokenUnavailable
from keyosk_client.flask import Keyosk

KEYOSK = os.environ.get("KEYOSK_URL") or "http://127.0.0.1:8080"
BILLING = os.environ.get("BILLING_URL") or "http://127.0.0.1:8083"

app = Flask(__name__)
keyosk = Keyosk(KEYOSK, "shop")
login = TokenSource(KEYOSK, "shop-backend")


@app.get("/orders")
@keyosk.require("shop:read")
def list_orders() -> Any:
    """The caller's orders, with the invoices that billing has for the same caller."""
    for_caller = login.on_behalf_of(keyosk.token, audience="billing")
    answer = httpx.get(f"{BILLING}/invoices", auth=for_caller, timeout=5).raise_for_status()
    return {"orders": ["a watering can"], "invoices": answer.json()["invoices"]}


@app.errorhandler(LoginRefused)
@app.errorhandler(TokenUnavailable)
@app.errorhandler(httpx.HTTPError)
def no_invoices(error: Exception) -> Any:
    """Say that it is not the caller's fault; the log has the reason."""
    app.logger.warning("billing could not be asked: %s", error)
    return {"error": "billing_unavailable"}, 503


if __name__ == "__main__":
    host, _, port = (os.environ.get("SHOP_BIND") or "127.0.0.1:8082").rpartition(":")
    app.run(host=host, port=int(port))
