"""Permissions: which scopes exist, who holds them, and what they give for one request.

Owns: services with their scopes, roles, ``entitlements`` (the audiences and scopes of a token for
a login, at one moment), and ``safeguards``, the rules against privilege escalation and for keeping
an admin.

Does not own: the grants of an account (``accounts.grants``) or the token itself (``tokens``).

A token: ``entitlements`` receives what the login holds, and the audiences and scopes of the
request. It returns the content of the token, without a query of its own.
"""
