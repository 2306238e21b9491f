"""The records of drills in the store: off-host like the sets that they are about."""

from prefect import get_run_logger

from tasks.core.drills import DRILLS_FOLDER, DrillRecord, history, parse_record, record_path
from tasks.sets import WARM_CLASS
from tasks.store import StoreAddress, persistent

KEPT_IN_A_REPORT = 12


@persistent
def read_records(address: StoreAddress, context: str, count: int = KEPT_IN_A_REPORT) -> list[DrillRecord]:
    """Return the records of the last drills, the newest first."""
    store = address.opened
    keys = sorted((one.key for one in store.list(f"{context}/{DRILLS_FOLDER}/")), reverse=True)[:count]
    return history(filter(None, (parse_record(store.read(key)) for key in keys)), count)


@persistent
def keep_record(address: StoreAddress, context: str, record: DrillRecord) -> str:
    """Keep the record of a drill; return where it lies."""
    key = record_path(context, record)
    address.opened.replace(key, (record.model_dump_json(indent=1) + "\n").encode(), WARM_CLASS)
    get_run_logger().info("drill recorded: %s", address.path(key))
    return key
