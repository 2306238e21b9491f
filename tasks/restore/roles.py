"""Roles that a restore creates, and privileges that it grants temporarily."""

from collections.abc import Iterable

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.owners import owners
from tasks.core.sets.shared_schema import own_grants, schemas_with_objects
from tasks.database.locks import MAINTENANCE_DATABASE
from tasks.restore.target import Target, members_of
from tasks.run.run import Run, step


def create_roles(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Create missing roles that objects need as NOLOGIN, and note what is still to do for each."""
    if target.roles is None:
        return
    with connect(target.roles, MAINTENANCE_DATABASE, run.title) as connection:
        _create_roles(connection, server, manifest, target)


def _create_roles(connection: Connection, server: Server, manifest: Manifest, target: Target) -> None:
    names = [role.name for role in manifest.roles]
    existing = {row[0] for row in connection.execute(sql.databases.EXISTING_ROLES, {"names": names})}
    for role in manifest.roles:
        if role.name in existing:
            continue
        connection.execute(sql.databases.create_role(role.name))
        target.created_roles.append(role.name)
        for login in dict.fromkeys(members_of(manifest, role.name, server, target.loader)):
            connection.execute(sql.logins.grant_role(role.name, login, target.server_major))
        was = [word for word, had in (("LOGIN", role.login), ("SUPERUSER", role.superuser), ("CREATEDB", role.createdb),
                                      ("CREATEROLE", role.createrole), ("BYPASSRLS", role.bypassrls)) if had]  # fmt: skip
        member = f", member of {', '.join(role.member_of)}" if role.member_of else ""
        target.to_do.append(
            f'role "{role.name}" was created NOLOGIN without password; in the source it was {" ".join(was) or "NOLOGIN"}{member}'
        )


def allow_owners(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Grant owners CREATE on existing schemas during the restore: ALTER … OWNER TO needs it."""
    with connect(server, target.working_name, run.title) as connection:
        for schema in schemas_with_objects(manifest):
            lend_create(connection, target, schema, owners(manifest))


def lend_create(connection: Connection, target: Target, schema: str, roles: Iterable[str]) -> None:
    """Grant roles CREATE on a schema, if it exists, and remember those that lacked it."""
    if connection.execute(sql.databases.SCHEMA_EXISTS, {"schema": schema}).fetchall()[0][0]:
        asked = {"owners": sorted(roles), "schema": schema}
        lent = [(schema, row[0]) for row in connection.execute(sql.databases.SCHEMA_CREATORS, asked)]
        for privilege in lent:
            connection.execute(sql.databases.grant_create(*privilege))
        target.lent.extend(lent)


@step
def take_back_rights(server: Server, run: Run, manifest: Manifest, target: Target) -> None:
    """Revoke privileges that owners lack in the source; grant those they have on `public` there."""
    privileges = {item.name: item.state for item in manifest.inventory if item.kind == "schema"}
    with connect(server, target.working_name, run.title) as connection:
        for schema, role in target.lent:
            if f" {role}=CREATE" not in privileges.get(schema, ""):
                connection.execute(sql.databases.revoke_create(schema, role))
        for grant in own_grants(manifest):
            connection.execute(sql.databases.grant_on_schema(grant.schema, grant.role, grant.privilege, grantable=grant.grantable))


@step
def drop_roles(server: Server, run: Run, target: Target) -> None:
    """Drop the roles created for a database that was dropped again; a role that is in use stays."""
    with connect(target.roles or server, MAINTENANCE_DATABASE, run.title) as connection:
        for role in target.created_roles:
            try:
                connection.execute(sql.databases.drop_role(role))
            except psycopg.Error as error:
                if connection.broken:
                    raise
                get_run_logger().warning('role "%s", created for this run, could not be dropped: %s', role, message_of(error))
