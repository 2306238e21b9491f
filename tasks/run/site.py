"""The site of a run: the context, its server and its store.

The environment (PGHOST or PGSERVICE, BACKUP_STORE) takes precedence over registered blocks: in a
disaster the registered server is the dead one. The context's folder replaces a missing block.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem
from prefect.logging import get_run_logger

from blocks.bounded_context import BoundedContext
from tasks.core.context import CONTEXT_FILE, Context, parse_context, read_context_folder
from tasks.core.errors import BadInput, OperationError, UnsafeTarget
from tasks.core.postgres.connection import ADDRESS, Server
from tasks.core.sets.manifest import Scope
from tasks.core.sets.name import require_context_name
from tasks.store.address import StoreAddress
from tasks.store.signing_keys import load_signer, load_trust

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials


SERVER_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE")
CONTEXTS = Path(__file__).parents[2] / "deployments" / "contexts"

B = TypeVar("B", bound=Block)


@dataclass(frozen=True)
class Site:
    """A context with its files, server, database and store."""

    context: Context
    files: dict[str, str] = field(repr=False)
    server: Server
    database: str
    store: StoreAddress
    claimed_tables: frozenset[str]
    loader: Server | None = None

    @property
    def owners_login(self) -> Server:
        """The server with the login whose sessions run the source's code.

        Raises:
            OperationError: no login was chosen (tasks.database.logins.with_loader).
        """
        if self.loader is None:
            raise OperationError("no login was chosen to run code of the tables' owner")
        return self.loader

    def narrowed(self, scope: Scope) -> "Site":
        """Return the site with only some tables of the context, without its views."""
        return replace(self, context=self.context.narrowed(scope))


def require_confirmed(site: Site, confirm_database: str | None, what: str) -> None:
    """Refuse to change a live database whose name was not passed as confirm_database.

    Raises:
        UnsafeTarget: confirm_database is another name, or none.
    """
    if confirm_database != site.database:
        raise UnsafeTarget(
            f'refusing to {what} of the live database "{site.database}"; look at the plan, then '
            "pass "
            f'confirm_database="{site.database}"'
        )


def load(kind: type[B], name: str) -> B | None:
    """Return a block, or None if it is not registered."""
    try:
        return cast(B, kind.load(name))
    except ValueError as error:
        if "Unable to find block document" in str(error):
            return None
        raise


def find_site(context: str, login: str = "restorer", *, trust_unsigned: bool = False) -> Site:
    """Return the site of a context, registered or given by its folder and the environment.

    `login` names one of the registered logins: `reader` for runs that change nothing, `restorer`
    for others.

    Raises:
        BadInput: the context is unknown, its file is invalid, BACKUP_STORE is not set, or a signing
            or verification key is not usable.
    """
    definition, files, block = _definition(context)
    server, database = _server_of(block.database if block else None, login)
    store = find_store(context, trust_unsigned=trust_unsigned)
    store = replace(store, signer=load_signer(store.url, store.trust))
    require_apart(definition, store)
    return Site(definition, files, server, database or definition.database, store, _claimed(definition))


def require_apart(context: Context, store: StoreAddress) -> None:
    """Refuse a local-copy folder that overlaps the store's own folder: it would be no second copy.

    Raises:
        BadInput: the folders are the same, or one contains the other.
    """
    if context.local_copy is None or store.off_host:
        return
    copy, main = Path(context.local_copy.folder).resolve(), Path(store.url).resolve()
    if copy == main or copy in main.parents or main in copy.parents:
        raise BadInput(
            f'local_copy.folder "{context.local_copy.folder}" of {context.name} and the store '
            f"{store.url} overlap; "
            "name another folder in its context.yaml"
        )


def find_context(context: str) -> Context:
    """Return a context's definition, from its block or folder, without its server and store."""
    return _definition(context)[0]


def _definition(context: str) -> tuple[Context, dict[str, str], BoundedContext | None]:
    """Return a context's definition and files, from its block or folder, and the block."""
    require_context_name(context)
    if block := load(BoundedContext, context):
        return block.definition, block.files, block
    files = _folder_of(context)
    return parse_context(files[CONTEXT_FILE], f"{CONTEXTS / context / CONTEXT_FILE}"), files, None


def _folder_of(context: str) -> dict[str, str]:
    folder = CONTEXTS / context
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in CONTEXTS.glob("*/"))) or "none"
        raise BadInput(
            f'unknown context "{context}": there is no block bounded-context/{context} and no '
            f"folder {folder} (known: {known}); "
            "correct the name or register the context: python -m deployments.register"
        )
    return read_context_folder(folder)


def _claimed(context: Context) -> frozenset[str]:
    """Return the tables (schema.table) of all known contexts and of the context's `neighbours`."""
    contexts = [context]
    for path in CONTEXTS.glob(f"*/{CONTEXT_FILE}"):
        try:
            contexts.append(parse_context(path.read_text(encoding="utf-8"), str(path)))
        except BadInput as error:
            # An invalid file of another context must not stop this one's backup.
            get_run_logger().warning("%s", error)
    own = {f"{known.namespace}.{name}" for known in contexts for name in (*known.tables, *known.views)}
    return frozenset(own | {f"{context.namespace}.{name}" for names in context.neighbours.values() for name in names})


def find_store(context: str, *, trust_unsigned: bool = False) -> StoreAddress:
    """Return the store in BACKUP_STORE, else that of the context's block; needs no context folder.

    Raises:
        BadInput: BACKUP_STORE is missing, or the key for verifying sets is not usable.
    """
    require_context_name(context)
    block = None if os.environ.get("BACKUP_STORE") else load(BoundedContext, context)
    store = _store_of(block.store) if block else environment_store()
    return replace(store, trust=load_trust(store.url, unsigned=trust_unsigned))


def environment_store() -> StoreAddress:
    """Return the store in BACKUP_STORE, with the usual AWS variables.

    Raises:
        BadInput: BACKUP_STORE is not set.
    """
    url = os.environ.get("BACKUP_STORE", "")
    if not url:
        raise BadInput("BACKUP_STORE is not set; write s3://bucket[/prefix] or the absolute path of a folder")
    return StoreAddress(url.rstrip("/") if "://" in url else str(Path(url).absolute()))


def _store_of(reference: str) -> StoreAddress:
    kind, _, name = reference.partition("/")
    if kind == "s3-bucket":
        # Imported here because the import is slow (also below).
        from prefect_aws import S3Bucket

        bucket = _required(S3Bucket, name, reference)
        credentials = cast("AwsCredentials", bucket.credentials)
        # Without keys in the block, the worker's own environment or role is used.
        keyed = credentials.aws_access_key_id or credentials.profile_name or credentials.aws_client_parameters.endpoint_url
        prefix = bucket.bucket_folder.strip("/")
        return StoreAddress(f"s3://{bucket.bucket_name}" + (f"/{prefix}" if prefix else ""), credentials if keyed else None)
    folder = _required(LocalFileSystem, name, reference)
    return StoreAddress(str(Path(folder.basepath or "").absolute()))


def _required(kind: type[B], name: str, reference: str) -> B:
    block = load(kind, name)
    if block is None:
        raise BadInput(f"block {reference} does not exist; run python -m deployments.register")
    return block


def find_server(connector: str | None, context: str | None = None) -> Server:
    """Return the server of a SqlAlchemyConnector block, of libpq's environment, or the context's.

    Raises:
        BadInput: the named block does not exist.
    """
    if connector:
        return _connector(connector, "restorer")[0]
    block = load(BoundedContext, context) if context else None
    return _server_of(block.database if block else None, "restorer")[0]


def find_drill_server(context: str) -> Server:
    """Return the server for drills: the context's `drill_database` block, else its own server.

    Raises:
        BadInput: the context is unknown, or the block does not exist.
    """
    definition, _, _ = _definition(context)
    return find_server(definition.drill_database, context)


def _server_of(connector: str | None, login: str) -> tuple[Server, str | None]:
    """Return server and database of libpq's environment, else of the context's connector block."""
    if connector is None or any(os.environ.get(name) for name in SERVER_VARIABLES):
        return Server(), os.environ.get("PGDATABASE")
    return _connector(connector, login)


def _connector(name: str, login: str) -> tuple[Server, str | None]:
    """Return server and database of a connector block, with the login's own block if it has one."""
    connector = _read_connector(name)
    if connector is None:
        raise BadInput(
            f"no block sqlalchemy-connector/{name}; register the server under that name, or "
            "correct the name "
            '("server" of a recovery, drill_database of the context)'
        )
    server, database = connector
    return login_blocks(server, login) or server, database


def login_blocks(server: Server, login: str) -> Server | None:
    """Return the server with the login of block `<block>-<login>`, if that is registered."""
    connector = _read_connector(f"{server.block}-{login}") if server.block else None
    return replace(connector[0], block=server.block) if connector else None


def _read_connector(name: str) -> tuple[Server, str | None] | None:
    from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector

    connector = load(SqlAlchemyConnector, name)
    if connector is None:
        return None
    components = connector.connection_info
    if not isinstance(components, ConnectionComponents):
        raise BadInput("the connector block holds a URL, which shows its password; create it from ConnectionComponents")
    password = components.password.get_secret_value() if components.password else None
    given: Mapping[str, object] = {
        "host": components.host,
        "port": components.port,
        "user": components.username,
        "password": password,
        **(components.query or {}),
        **(connector.connect_args or {}),
    }
    parameters = ADDRESS | {key: str(value) for key, value in given.items() if value is not None}
    if "service" in parameters:
        raise BadInput(f"the connector block {name} names a libpq service; set its host, port and user instead")
    return Server(parameters, f"block sqlalchemy-connector/{name}", name), components.database


def describe(server: Server, store: StoreAddress) -> None:
    """Log the server and the store of a run."""
    get_run_logger().info("server: %s; store: %s", server.name, store.url)
