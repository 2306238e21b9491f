"""The example database that every test gets a copy of, and its context."""

from typing import Any

from psycopg import sql

from deployments.example import create_example
from deployments.local import LocalServer

CONTEXT = "bc-004"
DATABASE = "consulting_tool"
TEMPLATE = "example_template"
TABLES = [
    "organizations", "organization_units", "organization_hierarchies", "organization_members", "teams", "team_members",
    "team_leaders", "governance_policies", "governance_rules", "policy_scopes", "policy_violations",
]  # fmt: skip
# The keys to users, which belongs to another context: the only difference that a recovery may leave.
OUTBOUND_KEYS = [
    "organization_members.organization_members_user_fkey", "policy_violations.policy_violations_resolver_fkey",
    "team_leaders.team_leaders_user_fkey", "team_members.team_members_user_fkey",
]  # fmt: skip


def make_template(server: LocalServer, **sizes: Any) -> None:
    """Make the example database that every test gets a copy of."""
    server.create_database(TEMPLATE, "consulting_owner")
    create_example(server.conninfo(TEMPLATE), **({"scale": 0.1, "violations_per_year": 1000} | sizes))


def copy_template(server: LocalServer, name: str = DATABASE) -> None:
    """Make a fresh copy of the example database."""
    with server.connect() as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER consulting_owner")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
