"""Keyosk: one login for a set of microservices.

A caller shows a username with a password or an API key once, by HTTP Basic, and gets a signed JWT
that carries the account's permissions; every service checks that token offline with the public
keys that Keyosk publishes.

**The house.** Imports only go down; the same noun has the same name on every floor::

    __main__              the program
    cli/  server          commands for operators; gunicorn, programmatically
    app                   the one place that builds and wires
    web/                  HTTP only: Flask, Flask-RESTful, marshmallow
    installation          all of the next floor in one value, as those above are given it
    accounts api_keys authentication bootstrap bulk declarations documents explaining guesses
    inspection issuing key_lives key_set pauses permissions private_keys revocations rotation
    services sessions sights signing tokens upkeep
                          what Keyosk does
    storage/              the only user of peewee
    config  keyring  imported_keys  hsm  metrics  passwords  password_rules  usernames
                          the only users of the environment, cryptography, PKCS#11,
                          prometheus-client, passlib, zxcvbn, precis-i18n
    api_key_form  checks  clocks  ids  imported_hashes  jws_form  merge  password_hashes  roca
    setting_files
    masking  setting_rules  slots  whitespace
                          forms and rules without a library that shapes them
    model  errors         frozen values; what can go wrong

**One request walked through.** ``POST /auth/token`` with an API key: ``server`` reads it whole,
``web/routes`` finds the resource and its access decision, ``web/token`` takes the parameters and
parses the Basic header (``web/basic``), ``authentication`` checks the key's form and digest with
one query of ``storage/logins``, ``issuing`` has ``permissions`` choose audiences and scopes from
what the account holds now, ``tokens`` writes the claims and signs them with the active key that
``signing`` keeps in memory. Nothing is written on the way.
"""
