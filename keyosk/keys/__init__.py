"""Signing keys: the keys that sign tokens, and their publication.

Owns: key material and its algorithms, private keys encrypted in the database or held in an HSM, the
key set that each process keeps in memory, the schedule by which keys are published, sign, retire
and are removed, and the JWS format.

Does not own: the claims of a token (``tokens``), or HTTP caching of the key set (``web``).

A token: ``key_set`` returns the signer for an algorithm from memory, ``jws`` signs with it. A
rotation: ``rotation`` changes the stored keys, and every process reads them again within a second.
"""
