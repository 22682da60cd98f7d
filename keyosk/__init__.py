"""Keyosk: one login for a set of microservices.

A caller shows a username with a password or an API key once, by HTTP Basic, and gets a signed JWT
that carries the account's permissions; every service verifies that token offline with the public
keys that Keyosk publishes.

**The layers.** Each line is a layer, the highest first. A module or a package imports only from the
layers below its own. ``tests/test_layers.py`` reads this map and compares the code with it, so each
of them is on it exactly once::

    __main__: the program
    cli: commands, clients of the REST API
    app, server: the start, and the web application; the HTTP server, which knows nothing of Keyosk
    console: pages for people: clients of the REST API, called inside this process
    web, bootstrap: HTTP with Flask, Flask-RESTful and marshmallow; the first start
    installation: creates everything below; the layers above receive it as one value
    tokens, bulk, apply: tokens and sessions; import and export; manifests
    monitoring, login_failures, diagnosis: gauges; failed logins and throttling; what is wrong here
    accounts, workloads: accounts, their keys and grants; logins by another platform's token
    permissions, idempotency, maintenance: who may do what; repeated requests; backup and check
    keys, credentials, audit_verification: signing keys; proofs of who is calling; proof of the log
    revocation_list: the revocations that services poll
    audit, revocations: what was done; what must no longer be accepted
    activity, scope_uses: counts per minute; which scopes are used
    storage: the only layer that knows peewee
    config, validation, delays, checks: settings; all faults of a request; delays; what was found
    traces, audit_chain: spans of requests, for OpenTelemetry; the hashes of the audit log
    model, errors, ids, clocks, times, metrics: frozen values, and what all layers need
    masking, merge_patch, networks, small_files, strict_json, suspension, whitespace: small tools

The same noun has the same name in every layer. Each package opens with what it owns, what it does
not own, and how a request passes through it.

**One request walked through.** ``POST /auth/token`` with an API key: ``server`` reads the whole
request, ``web.routes`` finds the resource and its access decision, ``web.token`` reads the
parameters, ``web.authorization`` parses the credentials and checks the key's checksum,
``credentials.authentication`` finds its digest with one query of ``storage.logins``,
``tokens.issuing`` has ``permissions.entitlements`` choose audiences and scopes from what the
account holds now, ``tokens.access_tokens`` writes the claims, and ``keys`` signs them with the
active key that it holds in memory. Nothing is written on the way.
"""

from typing import Final

#: The same as in pyproject.toml; reading it from there would cost 2 ms at each start.
__version__: Final = "0.1.0"
