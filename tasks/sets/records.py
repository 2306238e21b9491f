"""The records of drills, integrity checks and expired sets, in the store like the sets."""

from collections.abc import Callable

from prefect import get_run_logger

from tasks.core.sets.records import R, Record, history, record_path
from tasks.core.values import parse_or_none
from tasks.run.retries import persistent
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress


@persistent
def read_records(address: StoreAddress, context: str, kind: type[R], choose: Callable[[list[str]], list[str]]) -> list[R]:
    """Return the records whose keys are chosen, the newest first; unreadable ones are skipped."""
    store = address.opened
    keys = sorted((info.key for info in store.list(f"{context}/{kind.folder}/")), reverse=True)
    return history(filter(None, (parse_or_none(kind, store.read(key)) for key in choose(keys))))


@persistent
def keep_record(address: StoreAddress, context: str, record: Record) -> str:
    """Store the record of a run, create-only; return its key."""
    key = record_path(context, record)
    address.opened.create(key, (record.model_dump_json(indent=1) + "\n").encode(), WARM_CLASS, {})
    get_run_logger().info("recorded: %s", address.path(key))
    return key
