"""The logins by kind of work: the source's code runs as a login with only its owner's rights.

Checks, triggers, defaults, generated columns, domains, casts, index expressions, views and repairs
are code of the tables' owner. SET ROLE and SET SESSION AUTHORIZATION do not confine code, as one
set_config reverts them. So the login is the security boundary, and each run refuses a login with
further rights.
"""

import os
import secrets
import zlib
from collections.abc import Collection, Iterable
from dataclasses import replace

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.connection import Connection, Server, connect, major_of
from tasks.core.postgres.messages import message_of
from tasks.database import catalog
from tasks.database.locks import MAINTENANCE_DATABASE, SPACE
from tasks.run.run import Run
from tasks.run.site import Site, login_blocks

LOADER, ROLES, RESTORER = "backup_loader", "backup_roles", "backup_restorer"
AS_SUPERUSER = "BACKUP_LOAD_AS_SUPERUSER"
ROLES_FILE = "psql -d postgres -f deployments/roles.sql"
LET_IN = "give it a password (\\password {login}), and set BACKUP_LOADER_PASSWORD if that is not the password of this login"


def with_loader(site: Site, run: Run, *, acting: bool = True) -> Site:
    """Return the site with the login that runs the code of its live database, until the run ends.

    Without `acting`, the login need not be a member of the owners.

    Raises:
        BadInput: no login has exactly the owners' rights; or the database cannot be reached.
    """
    return replace(site, loader=find_loader(site.server, run, live_owners(site, run), is_live=True, acting=acting))


def require_all_rows(site: Site, run: Run) -> None:
    """Make sure that row-level security hides no rows of the live database from the tables' owner.

    Raises:
        BadInput: row-level security is forced on some tables, so that only part of their rows would
            be processed.
    """
    with connect(site.owners_login, site.database, run.title) as connection:
        members = catalog.read_members(connection, catalog.present(connection, site.context), restorable=False)
        hidden = [row[0] for row in connection.execute(sql.catalog.HIDDEN_BY_ROW_SECURITY, {"oids": members.oids})]
    if hidden:
        remedy = " ".join(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY;" for name in hidden)
        raise BadInput(
            f"row-level security is forced on {', '.join(hidden)}: policies would hide rows from "
            "this run, which works as the owner; nothing was changed; run this first, and revert "
            f"it afterwards: {remedy}"
        )


def loader_or_reason(site: Site, run: Run) -> tuple[Server | None, str]:
    """Return the login for the code of a live database's owners, or None and the reason."""
    try:
        return with_loader(site, run).owners_login, ""
    except OperationError as error:
        get_run_logger().warning("no login for the code of the tables' owner: %s", error)
        return None, str(error)


def live_owners(site: Site, run: Run) -> list[str]:
    """Return the owners of the live context's objects, or of its schema if none are left."""
    with connect(site.server, site.database, run.title) as connection:
        members = catalog.read_members(connection, catalog.present(connection, site.context), restorable=False)
        chosen = members.chosen_by_class
        named = {"relations": chosen["pg_class"], "functions": chosen["pg_proc"], "types": chosen["pg_type"]}
        rows = connection.execute(sql.logins.OWNERS, named).fetchall()
        rows = rows or connection.execute(sql.logins.OWNER_OF_SCHEMA, {"schema": site.context.namespace}).fetchall()
        return [row[0] for row in rows]


def require_temporary(connection: Connection) -> None:
    """Refuse a login that may not create TEMP tables.

    Raises:
        BadInput: the login lacks the privilege TEMPORARY.
    """
    if not _asked(connection, sql.logins.MAY_USE_TEMPORARY):
        name, login = connection.info.dbname, connection.info.user
        raise BadInput(f'login "{login}" may not create TEMP tables; run: GRANT TEMPORARY ON DATABASE "{name}" TO "{login}";')


def find_loader(
    server: Server, run: Run, owners: Collection[str], *, is_live: bool = False, acting: bool = True,
    only_superusers: Collection[str] = (),
) -> Server:  # fmt: skip
    """Return the address with the login that runs these owners' code.

    It is the configured login, else this login if it has no more rights than an owner, else
    `backup_loader`, else a login created for the run if this login may create one. Owners that do
    not exist as roles are skipped.

    Args:
        server: the server, with the run's own login.
        run: the run, at whose end a login created for it is dropped.
        owners: the roles that own the objects.
        is_live: skip owners that are superusers if there are others; their objects are refused in
            any case.
        acting: the login must be a member of each owner.
        only_superusers: objects to create that only a superuser can.

    Raises:
        BadInput: no login fits, because it has more rights than the owners, is not a member of one,
            or a superuser is required.
    """
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        there = dict(connection.execute(sql.logins.ROLES_THERE, {"names": sorted(owners)}).fetchall())
        named = [name for name, is_superuser in there.items() if not is_superuser]
        above = [name for name in there if name not in named]
        if above and (_is_trusted(connection) or not (is_live and named)):
            return _as_superuser(connection, server, f"objects belong to superuser {', '.join(above)}", above)
        if only_superusers:
            return _as_superuser(connection, server, f"only a superuser can create {', '.join(only_superusers)}")
        loader = _choose(connection, server, run, named, acting=acting)
    get_run_logger().info('code of %s runs as login "%s"', ", ".join(named) or "the owners", loader.user)
    return loader


def _is_trusted(connection: Connection) -> bool:
    return os.environ.get(AS_SUPERUSER, "") == connection.info.user and bool(_asked(connection, sql.logins.IS_SUPERUSER))


def _as_superuser(connection: Connection, server: Server, why: str, owners: Iterable[str] = ()) -> Server:
    login = connection.info.user
    if not _is_trusted(connection):
        instead = (
            "give them to the tables' owner in the source (ALTER … OWNER TO, REASSIGN OWNED BY) and back up again; or, where "
            if owners
            else "where "
        )
        raise BadInput(
            f"{why}: owners' code could do anything to the server while it is loaded; "
            f"{instead}everyone who may change them is trusted like a superuser, run as a "
            f"superuser and confirm that with {AS_SUPERUSER}=<that login>"
        )
    get_run_logger().warning('%s: code of owners runs as "%s" (%s)', why, login, AS_SUPERUSER)
    return server


def _choose(connection: Connection, server: Server, run: Run, owners: list[str], *, acting: bool) -> Server:
    candidates, is_named = candidates_of(server, "loader", LOADER)
    beyond = _beyond(connection, owners)
    if not is_named and not beyond and not (acting and _lacking(connection, owners)):
        return server
    may_make = bool(connection.execute(sql.logins.MAY_GRANT, {"owners": owners}).fetchall()[0][0])
    if may_make:
        sweep_logins(connection)
    why = f'there is no login "{LOADER}": run, as a superuser, {ROLES_FILE}; then {LET_IN.format(login=LOADER)}'
    if is_named or _asked(connection, sql.logins.HAS_ROLE, name=LOADER):
        fitting = _fit(candidates, run, owners)
        if isinstance(fitting, Server):
            return fitting
        why = fitting
    if not is_named and may_make:
        return _make_login(server, run, owners)
    raise BadInput(
        f'login "{connection.info.user}" has more rights '
        f"({', '.join(beyond) or 'roles that others own'}) "
        f"than the owners of the code that it would run, and {why}"
    )


def candidates_of(server: Server, kind: str, default: str) -> tuple[list[Server], bool]:
    """Return possible logins for a kind of work, one per password, and whether one is configured.

    BACKUP_<KIND>_USER and BACKUP_<KIND>_PASSWORD configure it, or its own block beside the server's
    block.
    """
    user, password = (os.environ.get(f"BACKUP_{kind.upper()}_{word}") for word in ("USER", "PASSWORD"))
    if not user and not password and (registered := login_blocks(server, kind)):
        return [registered], True
    # A passfile has a password for each login; without a passfile, all logins may share a password.
    passwords = [password] if password else [None, server.password]
    return [server.as_login(user or default, password) for password in dict.fromkeys(passwords)], bool(user or password)


def _fit(candidates: Iterable[Server], run: Run, owners: list[str]) -> Server | str:
    """Return the first login that can connect, if it is a member of all owners; else the reason.

    Raises:
        BadInput: the login has more rights than the owners.
    """
    reason = ""
    for login in candidates:
        try:
            with connect(login, MAINTENANCE_DATABASE, run.title) as connection:
                beyond, lacking = _beyond(connection, owners), _lacking(connection, owners)
        except BadInput as error:
            reason = reason or (f"{error}; {LET_IN.format(login=login.user)} (the login is created by {ROLES_FILE})")
            continue
        if beyond:
            raise BadInput(
                f'login "{login.user}" has more rights than {", ".join(owners) or "the owners"}, '
                "whose code it runs: "
                f"{', '.join(beyond)}; revoke these rights ({ROLES_FILE}), or name another login "
                "with BACKUP_LOADER_USER"
            )
        if lacking:
            grants = " ".join(f'GRANT "{role}" TO "{login.user}";' for role in lacking)
            return f'login "{login.user}" may not create objects for {", ".join(lacking)}; run as administrator: {grants}'
        return login
    return reason


def _beyond(connection: Connection, owners: list[str]) -> list[str]:
    return [row[0] for row in connection.execute(sql.logins.BEYOND, {"owners": owners})]


def _lacking(connection: Connection, owners: list[str]) -> list[str]:
    question = sql.logins.NOT_MEMBER_16 if major_of(connection) >= 16 else sql.logins.NOT_MEMBER
    return [row[0] for row in connection.execute(question, {"owners": owners})]


def _asked(connection: Connection, question: psycopg.sql.SQL, **values: str) -> bool:
    return bool(connection.execute(question, values).fetchall()[0][0])


def _make_login(server: Server, run: Run, owners: Iterable[str]) -> Server:
    """Create a login that is a member of the owners, dropped when this run or the next ends."""
    name, password = f"{LOADER}_{run.id}_{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    # This session's lock shows that the run is alive.
    keeper = run.until_end.enter_context(connect(server, MAINTENANCE_DATABASE, run.title))
    keeper.execute(sql.logins.LOCK, _key(name))
    until = keeper.execute(sql.logins.VALID_UNTIL, {"hours": sql.logins.LIFETIME_HOURS}).fetchall()[0][0]
    # The password is sent as a SCRAM verifier, so that no log of the server has it.
    verifier = keeper.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    keeper.execute(sql.logins.create_login(name, verifier, until))
    run.until_end.callback(_drop_login, server, run, name)
    login, major = server.as_login(name, password), major_of(keeper)
    for owner in owners:
        keeper.execute(sql.logins.grant_role(owner, name, major))
    if not _asked(keeper, sql.logins.IS_SUPERUSER):
        # Its creator must be able to terminate its sessions.
        keeper.execute(sql.logins.grant_role(name, keeper.info.user, major))
    try:
        with connect(login, MAINTENANCE_DATABASE, run.title):
            get_run_logger().info('login "%s" created for this run', name)
    except BadInput as error:
        raise BadInput(f"a login created for this run cannot connect: {error}; or create {LOADER}: {ROLES_FILE}") from error
    return login


def _drop_login(server: Server, run: Run, name: str) -> None:
    try:
        with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
            _drop(connection, name)
    except (OperationError, psycopg.Error) as error:
        message = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        get_run_logger().warning(
            'login "%s", created for this run, could not be dropped: %s; run: DROP ROLE "%s"', name, message, name
        )


def _drop(connection: Connection, name: str) -> None:
    connection.execute(sql.logins.end_sessions_of(name))
    connection.execute(sql.logins.drop_login(name))


def sweep_logins(connection: Connection) -> None:
    """Drop the logins that dead runs left, which nobody's advisory lock protects."""
    for (name,) in connection.execute(sql.logins.OF_RUNS).fetchall():
        if not connection.execute(sql.logins.TRY_LOCK, _key(name)).fetchall()[0][0]:
            continue
        try:
            _drop(connection, name)
            get_run_logger().warning('login "%s" of a dead run was dropped', name)
        except psycopg.Error as error:
            if connection.broken:
                raise
            get_run_logger().warning('login "%s" of a dead run could not be dropped: %s', name, message_of(error))
        finally:
            connection.execute(sql.logins.UNLOCK, _key(name))


def _key(name: str) -> dict[str, int]:
    return {"space": SPACE, "key": zlib.crc32(name.encode()) & 0x7FFFFFFF}


def find_roles_login(server: Server, run: Run) -> Server | None:
    """Return the address with a login that may create roles; None if there is none.

    Raises:
        BadInput: the configured login cannot connect, or lacks CREATEROLE.
    """
    candidates, is_named = candidates_of(server, "roles", ROLES)
    refused = BadInput()
    for login in candidates if is_named else [server, *candidates]:
        try:
            with connect(login, MAINTENANCE_DATABASE, run.title) as connection:
                if _asked(connection, sql.logins.MAY_CREATE_ROLES):
                    return login
            refused = BadInput(f'login "{login.user}" may not create roles; run: ALTER ROLE "{login.user}" CREATEROLE')
        except BadInput as error:
            refused = error
    if is_named:
        raise refused
    return None
