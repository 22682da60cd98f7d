"""Accounts, their API keys and their grants, as admins and owners manage them.

Owns: creating, changing and deleting them, each in one transaction with its audit row and its
revocation.

Does not own: proving who calls (``credentials``), or what a grant gives (``permissions``).

A write: the safeguards are asked, the store writes, ``revocations`` publishes what verifiers must
learn, ``audit`` records it; all in one transaction.
"""
