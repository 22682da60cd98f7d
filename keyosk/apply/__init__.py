"""Declarative configuration: a manifest of services, roles, accounts and grants.

Owns: the manifest's form, the plan of what would change, who owns what was declared, and executing
a plan.

Does not own: the changes themselves, which are those that the REST API makes.
"""
