"""The console: pages for people, at ``/console`` and ``/me``.

Owns: pages, their forms and cookies, the checks against cross-site requests, and the
confirmation of dangerous acts by password.

Does not own: any authorization rule. A page calls the REST API inside this process
(``console.api``) as the account of its session, so the same access decisions, validation and audit
rows apply as to any client.

A request: ``application`` finds the session of the cookie, ``browser`` checks where a form came
from, a view calls the API and fills a template. Everything in a template is escaped.
"""
