"""Bulk import and export of accounts, as JSON Lines.

Owns: the record of an account in a file, its validation, and working through files of any length
in batches.

Does not own: reading lines from HTTP (``web``), or the rules for one account (``accounts``).
"""
