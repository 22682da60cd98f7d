"""Billing, which the shop calls on behalf of the shop's callers (``shop_service.py``).

Settings, from the environment: ``BILLING_BIND`` (``127.0.0.1:8083``) and ``KEYOSK_URL``
(``http://127.0.0.1:8080``). It needs flask and ``keyosk-client``.
"""

import os
from typing import Any

from flask import Flask

from keyosk_client.flask import Keyosk

app = Flask(__name__)
keyosk = Keyosk(os.environ.get("KEYOSK_URL") or "http://127.0.0.1:8080", "billing")


@app.get("/invoices")
@keyosk.require("billing:read")
def list_invoices() -> Any:
    """The caller's own invoices. Who acts for the caller, if somebody does, is in the token."""
    token = keyosk.token
    by = token.act["client_id"] if token.act else token.username
    return {"invoices": [f"an invoice for {token.username}, asked for by {by}"]}


if __name__ == "__main__":
    host, _, port = (os.environ.get("BILLING_BIND") or "127.0.0.1:8083").rpartition(":")
    app.run(host=host, port=int(port))
