"""Tokens: RFC 9068 access tokens and refresh sessions.

Owns: claims and their verification, issuing by login, refresh token and exchange, introspection and
revocation of one token, the explanation of a token that would be issued, and the kit of bad tokens
for testing a service.

Does not own: which scopes a token gets (``permissions``), keys (``keys``), or HTTP (``web``).

A token: ``issuing`` asks ``permissions.entitlements`` what the login is entitled to,
``access_tokens`` writes the claims and has ``keys`` sign them. Nothing is written on the way,
except for a refresh token.
"""
