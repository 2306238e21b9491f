"""Register a context: save its blocks, own its sets in the store, deploy flows, set up alarms.

python -m deployments.register [--context bc-004] [--notify slack-webhook/operators] [--work-pool backup]
    [--adopt] [--check] [--allow-open-api]

Reads deployments/contexts/<context>/, prefect.yaml and the environment: libpq's variables (PGHOST,
PGPORT, PGUSER, PGPASSWORD, PGDATABASE, TLS, passfile), BACKUP_STORE and the usual AWS variables. It
can be run again at any time.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector
from psycopg import pq
from pydantic import SecretStr

from blocks.bounded_context import BoundedContext
from deployments import automations, deployed, exposure, ownership
from deployments.automations import DEAD_AFTER, SILENCE
from deployments.login_blocks import login_connectors
from tasks.core.checks.definition import CHECKS_FILE, parse_checks
from tasks.core.context import CONTEXT_FILE, Context, parse_context, read_context_folder
from tasks.core.errors import BadInput, OperationError
from tasks.core.restore.drill import automation_of_drills
from tasks.run.site import CONTEXTS, environment_store, load
from tasks.store.address import StoreAddress

# The fields of the connector block; libpq's other parameters become its `query`.
NAMED_PARAMETERS = ("host", "port", "user", "password", "dbname")
LOCAL_PARAMETERS = ("application_name", "client_encoding", "options")


NO_SERVER = "no deployments and no alarms: PREFECT_API_URL names no Prefect server; export it and run again"
NO_DRILLS = "no drill will start when the schema changes: prefect.yaml has no deployment of recovery_drill for the context"
NOBODY = "nobody is notified of failures: create a notification block in Prefect's UI, and pass it with --notify type/name"


def main() -> None:
    """Register the context that the command line names, or print what differs."""
    parser = ArgumentParser(description="Register a context: blocks, store, deployments and alarms.", allow_abbrev=False)
    parser.add_argument("--context", default="bc-004")
    parser.add_argument("--adopt", action="store_true", help="let this cluster write the context's sets from now on")
    parser.add_argument("--allow-open-api", action="store_true", help="save passwords although Prefect's API needs no login")
    parser.add_argument(
        "--notify", help="the notification block (type/name) for failed runs, and for the alarm that no watch succeeds"
    )
    parser.add_argument("--work-pool", help="the work pool whose workers run the flows; created with type process if it is missing")
    parser.add_argument("--home", help="the folder of this project on the workers' machines")
    parser.epilog = (
        "Options that are omitted keep their registered values; the default pool is `backup`, the default folder this one."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; print what differs from the registration, and exit with 1 if anything differs",
    )
    arguments = vars(parser.parse_args())
    name, check, adopt = (arguments.pop(key) for key in ("context", "check", "adopt"))
    allow_open_api = arguments.pop("allow_open_api")
    lines = check_all(name, **arguments) if check else register_all(name, adopt=adopt, **arguments)
    try:
        exposure.check(allow_open_api=allow_open_api, only_look=check)
        printed = [_print_line(line) for line in lines]
    except OperationError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except (httpx.HTTPError, PrefectException) as error:
        sys.exit(f"Prefect's server failed ({type(error).__name__}: {error}); the steps printed above are done; run again later")
    if check and printed:
        sys.exit(f"{len(printed)} differences; to remove them, run again without --check")
    if check:
        _print_line("nothing differs")


def _print_line(line: str) -> str:
    print(line, flush=True)  # noqa: T201
    return line


def register_all(name: str, *, adopt: bool, notify: str | None, work_pool: str | None, home: str | None) -> Iterator[str]:
    """Register a context, and deploy its flows if there is a server; yield what was done."""
    notified = require_block(notify) if notify else None
    yield from register(name, adopt=adopt)
    if not PREFECT_API_URL.value():
        yield NO_SERVER
        return
    context = read_context(name)[0]
    with get_client(sync_client=True) as client:
        notified = notified or automations.notification_block(client, context)
        pool = deployed.save_variables(work_pool, home)
        deployed.require_pool(client, pool)
        yield f"work pool {pool}"
        if stale := deployed.stale(client, name, pool):
            deployed.deploy(stale)
        yield from (f"deployment {deployment}" for deployment in stale)
    saved = save_alarms(context, notified)
    yield from (f'automation "{automation}"' for automation in saved)
    if automation_of_drills(name) not in saved:
        yield NO_DRILLS
    if notified is None:
        yield NOBODY


def save_alarms(
    context: Context, notified: UUID | None, silence: timedelta = SILENCE, dead_after: timedelta = DEAD_AFTER
) -> list[str]:
    """Save the context's automations; return their names."""
    with get_client(sync_client=True) as client:
        expected = automations.automations(context, notified, deployed.drills(client, context.name), silence, dead_after)
        automations.save(client, expected)
    return [automation.name for automation in expected]


def check_all(name: str, *, notify: str | None, work_pool: str | None, home: str | None) -> Iterator[str]:
    """Yield how the registration differs from the folder, the environment and prefect.yaml.

    Raises:
        BadInput: folder, server or store is not usable.
    """
    context, files = read_context(name)
    store = environment_store()
    own, current = ownership.owners(context, store)
    if current != own:
        yield ownership.other_owner(context, store, own, current)
    for block in blocks_of(context, files, store):
        yield from _differences_of(name, block)
    for own_name, login in login_connectors(name, connector(context)):
        if not isinstance(login, str):
            yield from _differences_of(own_name, login)
    if not PREFECT_API_URL.value():
        yield NO_SERVER
        return
    with get_client(sync_client=True) as client:
        yield from deployed.differences(client, name, work_pool, home)
        notified = require_block(notify) if notify else automations.notification_block(client, context)
        for automation, saved in automations.stale(
            client, automations.automations(context, notified, deployed.drills(client, name))
        ):
            yield f'automation "{automation.name}" {"differs" if saved else "is missing"}'
    if notified is None:
        yield NOBODY


def _differences_of(name: str, expected: Block) -> Iterator[str]:
    current = load(type(expected), name)
    if current is None:
        yield f"block {_reference(expected, name)} is missing"
        return
    current_fields, expected_fields = _without_ids(current.model_dump()), _without_ids(expected.model_dump())
    # Without their values: a password is among them.
    yield from (
        f"block {_reference(expected, name)}: {key} differs"
        for key in expected_fields
        if current_fields[key] != expected_fields[key]
    )


def _without_ids(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a block's fields without those that it and its blocks have only once saved."""
    own_fields = {key: value for key, value in fields.items() if not key.startswith("_")}
    return {key: _without_ids(value) if isinstance(value, dict) else value for key, value in own_fields.items()}


def read_context(name: str) -> tuple[Context, dict[str, str]]:
    """Return a context as its folder defines it, and the folder's files.

    Raises:
        BadInput: a file of the folder is not valid; the message names file, key and remedy.
    """
    folder = CONTEXTS / name
    files = read_context_folder(folder)
    parse_checks(files.get(CHECKS_FILE, ""), str(folder / CHECKS_FILE))
    return parse_context(files[CONTEXT_FILE], str(folder / CONTEXT_FILE)), files


def register(name: str, *, adopt: bool = False) -> Iterator[str]:
    """Claim the store of a context and save its blocks; yield what was done, as it is done.

    Raises:
        BadInput: folder, server or store is not usable, or the store belongs to another cluster and
            adopt is false.
    """
    context, files = read_context(name)
    store = environment_store()
    yield ownership.claim_store(context, store, adopt=adopt)
    for block in blocks_of(context, files, store):
        block.save(name, overwrite=True)
        yield f"block {_reference(block, name)}"
    for own, login in login_connectors(name, connector(context)):
        if isinstance(login, str):
            yield login
            continue
        login.save(own, overwrite=True)
        yield f"block {_reference(login, own)}"


def _reference(block: Block, name: str) -> str:
    return f"{block.get_block_type_slug()}/{name}"


def require_block(reference: str) -> UUID:
    """Return the id of a block.

    Raises:
        BadInput: no block has this name.
    """
    try:
        block = cast(Block, Block.load(reference))
    except ValueError as error:
        raise BadInput(
            f"there is no block {reference}; create it under Blocks in Prefect's UI, or name another block (type/name)"
        ) from error
    assert block._block_document_id  # noqa: S101
    return block._block_document_id


def blocks_of(context: Context, files: dict[str, str], store: StoreAddress) -> list[Block]:
    """Return the blocks of a context, each after those that it references."""
    places = store_blocks(store)
    block = BoundedContext(
        definition=context, files=files, database=context.name, store=_reference(places[-1], context.name)
    )  # fmt: skip
    return [connector(context), *places, block]


def connector(context: Context) -> SqlAlchemyConnector:
    """Return the context's connector block from libpq's environment."""
    values = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.envvar and o.val}
    parameters = {key: value for key, value in values.items() if os.environ.get(_variable(key))}
    query = {key: value for key, value in parameters.items() if key not in (*NAMED_PARAMETERS, *LOCAL_PARAMETERS)}
    components = ConnectionComponents(
        driver="postgresql+psycopg", host=parameters.get("host"), port=int(parameters["port"]) if "port" in parameters else None,
        username=parameters.get("user"), password=parameters.get("password"), database=parameters.get("dbname", context.database),
        query=query or None,
    )  # fmt: skip
    return SqlAlchemyConnector(connection_info=components)


def _variable(keyword: str) -> str:
    return next(o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.keyword.decode() == keyword and o.envvar)


def store_blocks(store: StoreAddress) -> list[Block]:
    """Return the store's block, after the credentials' block if there is one."""
    if not store.off_host:
        return [LocalFileSystem(basepath=str(Path(store.url)))]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # Keys with a session token expire, and the block would show the token, so that they are not
    # saved: workers use their own environment or role.
    lasting = not os.environ.get("AWS_SESSION_TOKEN")
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY") if lasting else None
    credentials = AwsCredentials(
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID") if lasting else None,
        aws_secret_access_key=SecretStr(secret) if secret else None,
        profile_name=os.environ.get("AWS_PROFILE"),
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint),
    )  # fmt: skip
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    return [credentials, S3Bucket(bucket_name=bucket, bucket_folder=prefix, credentials=credentials)]


if __name__ == "__main__":
    main()
