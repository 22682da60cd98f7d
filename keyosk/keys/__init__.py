"""Signing keys: the keys that sign tokens, and their publication.

Owns: key material and its algorithms; private keys, in an HSM or encrypted in the database; the
secret key that encrypts them, and its file; the key set that each process keeps in memory; the
schedule by which keys are published, sign, retire and are removed; the JWS format.

Does not own: the claims of a token (``tokens``), or HTTP caching of the key set (``web``).

A token: ``key_set`` returns the signer for an algorithm from memory, ``jws`` signs with it. A
rotation: ``rotation`` publishes a key when a caller asks for it and ``schedule`` when one is old,
``schedule`` lets it sign, and every process reads the stored keys again within a second.
"""
