"""The records of drills, integrity checks and expired sets in the store: off-host like the sets that they are about."""

from collections.abc import Callable

from prefect import get_run_logger

from tasks.core.sets.records import R, Record, history, parse_record, record_path
from tasks.run.retries import persistent
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress


@persistent
def read_records(address: StoreAddress, context: str, kind: type[R], choose: Callable[[list[str]], list[str]]) -> list[R]:
    """Return the records of which the keys are chosen, of all that there are, the newest first; spoilt ones are passed over."""
    store = address.opened
    keys = sorted((one.key for one in store.list(f"{context}/{kind.folder}/")), reverse=True)
    return history(filter(None, (parse_record(kind, store.read(key)) for key in choose(keys))))


@persistent
def keep_record(address: StoreAddress, context: str, record: Record) -> str:
    """Keep the record of a run, create-only; return where it lies."""
    key = record_path(context, record)
    address.opened.create(key, (record.model_dump_json(indent=1) + "\n").encode(), WARM_CLASS, {})
    get_run_logger().info("recorded: %s", address.path(key))
    return key
