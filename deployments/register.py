"""Register a context: save what its folder and the environment say as blocks, and claim the store for its cluster.

python -m deployments.register [--context bc-004] [--adopt] [--notify slack-webhook/operators]

Reads deployments/contexts/<context>/ and the environment: libpq's variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE,
TLS, passfile), BACKUP_STORE and the usual AWS variables. Run again, it gives the same result.
"""

import os
import sys
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import cast

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.filesystems import LocalFileSystem
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector
from psycopg import pq
from pydantic import SecretStr

from blocks.bounded_context import BoundedContext
from tasks.core import sql
from tasks.core.checks import CHECKS_FILE, parse_checks
from tasks.core.context import CONTEXT_FILE, Context, parse_context, read_context_folder
from tasks.core.errors import BadInput, OperationError
from tasks.core.kinds import OWNER_FILE
from tasks.core.servers import Server, connect
from tasks.sets import WARM_CLASS, render_owner
from tasks.sites import CONTEXTS, environment_store
from tasks.store import StoreAddress, open_store

# What the connector block has fields for; libpq's other parameters travel in its query.
NAMED_PARAMETERS = ("host", "port", "user", "password", "dbname")
LOCAL_PARAMETERS = ("application_name", "client_encoding", "options")


def main() -> None:
    """Register the context that the command line names."""
    parser = ArgumentParser(description="Register a context's blocks from its folder and the environment.")
    parser.add_argument("--context", default="bc-004")
    parser.add_argument("--adopt", action="store_true", help="let this cluster write the context's sets from now on")
    parser.add_argument("--notify", help="the notification block (type/name) that is told of runs that fail or crash")
    arguments = parser.parse_args()
    try:
        for line in register(arguments.context, adopt=arguments.adopt, notify=arguments.notify):
            print(line)  # noqa: T201
    except OperationError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def register(name: str, *, adopt: bool = False, notify: str | None = None) -> list[str]:
    """Save the blocks of a context and claim its store; return what was done.

    Raises:
        BadInput: folder, server or store is not usable, or the store belongs to another cluster and adopt is false.
    """
    folder = CONTEXTS / name
    files = read_context_folder(folder)
    context = parse_context(files[CONTEXT_FILE], str(folder / CONTEXT_FILE))
    parse_checks(files.get(CHECKS_FILE, ""), str(folder / CHECKS_FILE))
    store = environment_store()
    claimed = claim_store(context, store, adopt=adopt)
    save_connector(context)
    reference = save_store(context, store)
    block = BoundedContext(definition=context, files=files, database=name, store=reference)
    block.save(name, overwrite=True)
    alarm = save_alarm(name, notify) if notify else "no alarm for failed runs: name a notification block, --notify type/name"
    return [claimed, f"block sqlalchemy-connector/{name}", f"block {reference}", f"block bounded-context/{name}", alarm]


def claim_store(context: Context, store: StoreAddress, *, adopt: bool) -> str:
    """Write owner.json, or compare it: one cluster writes a context's sets."""
    database = os.environ.get("PGDATABASE") or context.database
    with connect(Server(), database, "register") as connection:
        system_identifier = connection.execute(sql.SERVER_FACTS).fetchall()[0][0]
    opened, key = open_store(store), f"{context.name}/{OWNER_FILE}"
    wanted = render_owner(system_identifier)
    found = opened.read(key) if opened.head(key) else None
    if found is None:
        opened.create(key, wanted, WARM_CLASS, {})
    elif found != wanted and not adopt:
        raise BadInput(
            f"{store.path(key)} names another cluster ({found.decode().strip()}), this one is {system_identifier}; "
            "if this cluster takes over, for example after a disaster recovery, run again with --adopt"
        )
    elif found != wanted:
        opened.replace(key, wanted, WARM_CLASS)
    return f"{store.path(key)} names cluster {system_identifier}"


def save_connector(context: Context) -> None:
    """Save libpq's environment as the context's connector block."""
    values = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.envvar and o.val}
    given = {key: value for key, value in values.items() if os.environ.get(_variable(key))}
    query = {key: value for key, value in given.items() if key not in (*NAMED_PARAMETERS, *LOCAL_PARAMETERS)}
    components = ConnectionComponents(
        driver="postgresql+psycopg", host=given.get("host"), port=int(given["port"]) if "port" in given else None,
        username=given.get("user"), password=given.get("password"), database=given.get("dbname", context.database),
        query=query or None,
    )  # fmt: skip
    SqlAlchemyConnector(connection_info=components).save(context.name, overwrite=True)


def _variable(keyword: str) -> str:
    return next(o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.keyword.decode() == keyword and o.envvar)


def save_store(context: Context, store: StoreAddress) -> str:
    """Save the store's block, and the credentials' if the environment has any; return the store block's reference."""
    if not store.off_host:
        LocalFileSystem(basepath=str(Path(store.url))).save(context.name, overwrite=True)
        return f"local-file-system/{context.name}"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # Keys with a session token expire, and the block would show the token: then the worker's own environment or role serves.
    lasting = not os.environ.get("AWS_SESSION_TOKEN")
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY") if lasting else None
    credentials = AwsCredentials(
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID") if lasting else None,
        aws_secret_access_key=SecretStr(secret) if secret else None,
        profile_name=os.environ.get("AWS_PROFILE"),
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint),
    )  # fmt: skip
    credentials.save(context.name, overwrite=True)
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    S3Bucket(bucket_name=bucket, bucket_folder=prefix, credentials=credentials).save(context.name, overwrite=True)
    return f"s3-bucket/{context.name}"


def save_alarm(context: str, notify: str) -> str:
    """Save the automation that tells a notification block of each run of the context's deployments that fails or crashes.

    Raises:
        BadInput: there is no such block.
    """
    try:
        block = cast(Block, Block.load(notify))
    except ValueError as error:
        raise BadInput(f"no block {notify}; make it under Blocks in Prefect's UI, or name another (type/name)") from error
    assert block._block_document_id  # noqa: S101
    name = f"{context}: run failed"
    told = SendNotification(
        block_document_id=block._block_document_id,
        subject="{{ flow_run.name }}: {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{context}"}
        ),
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, posture=Posture.Reactive, threshold=1,
        within=timedelta(0),
    )  # fmt: skip
    with get_client(sync_client=True) as client:
        # Names are no keys: saved twice there would be two.
        for one in client.read_automations_by_name(name):
            client.delete_automation(one.id)
        client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[told]))
    return f'automation "{name}" tells block {notify}'


if __name__ == "__main__":
    main()
