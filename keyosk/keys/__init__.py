"""Signing keys: what signs tokens, and how verifiers get the public halves.

Owns: key material and its algorithms, private keys sealed in the database or held in an HSM, the
key set that each process keeps in memory, the plan by which keys are published, sign, retire and
go, and the JWS form.

Does not own: what a token says (``tokens``), or HTTP caching of the key set (``web``).

A token: ``key_set`` gives the signer for an algorithm from memory, ``jws`` signs with it. A
rotation: ``rotation`` changes the stored keys, and every process reads them again within a second.
"""
