"""Permissions: which scopes exist, who holds them, and what they give for one request.

Owns: services with their scopes, roles, ``entitlements`` (the audiences and scopes of a token for
a login, at one moment), and ``safeguards``, the rules that keep anybody from giving what they do
not hold and keep an admin in place.

Does not own: the grants of an account (``accounts.grants``) or the token itself (``tokens``).

A token: ``entitlements`` takes the holdings that the login came with, the audiences and the scopes
of the request, and answers with what the token may carry, without a query of its own.
"""
