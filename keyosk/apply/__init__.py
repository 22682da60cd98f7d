"""Declarative configuration: a manifest of services, roles, accounts, grants, issuers and rules.

Owns: the form of a manifest, the plan of its changes, the owners of its objects, and the execution
of a plan.

Does not own: the changes themselves, which are those of the REST API.
"""
