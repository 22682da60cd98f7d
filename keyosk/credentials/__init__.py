"""Credentials: what proves who is calling.

Owns: the formats of usernames, passwords and API keys; password hashing, its limit per machine, and
the policy for new passwords; throttling; and ``authentication``, which turns a secret or a verified
token into a ``Principal``.

Does not own: what an account may do (``permissions``), how a request carries a secret (``web``), or
the accounts and API keys as objects that admins manage (``accounts``).

A request: ``web`` passes the readings of its credentials to ``authentication``. An API key is found
by its digest with one query. A password is first admitted by ``throttling``, then verified while
``concurrency`` holds a place for it, and only then is the account read.
"""
