"""Workloads: logins by a token that a platform signed for a job, a pod or a cloud function.

Owns which platforms are trusted (``issuers``, filled in by ``presets``), which of their tokens log
in as which account (``rules``, compared by ``claims``), and how such a token is verified
(``assertions``) with the platform's keys (``key_sets``, fetched by ``fetching``). ``logins`` puts
them together. It does not own what the account may do then: that is for ``permissions``, as for any
login.

A request passes ``logins``: the token's ``iss`` and ``aud`` choose the issuer, its keys verify the
token, the rules that match it must agree on one account, and the result is a ``Principal`` with the
credential kind ``workload``.
"""
