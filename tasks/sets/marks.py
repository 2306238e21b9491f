"""Marks beside a manifest: later findings about a set, and the mark that the set is being read."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger

from tasks.core.errors import BadInput, OperationError
from tasks.core.run.clock import now
from tasks.core.sets.name import SetName
from tasks.core.sets.retention import CLEANED_FILE, DAMAGED_FILE
from tasks.run.retries import persistent
from tasks.run.run import Run
from tasks.store.address import StoreAddress

# The storage class of manifests and lists: choosing a set must not need a thaw.
WARM_CLASS = "STANDARD"
STATES = ("drilled", "decoded")


def remember_damage(address: StoreAddress, name: SetName, problem: str) -> None:
    """Mark a set as damaged for every listing; if the store is read-only, only warn."""
    try:
        _write_mark(address, name, DAMAGED_FILE, {"instant": now(), "found": problem})
    except OperationError as error:
        get_run_logger().warning("%s is damaged, but that could not be recorded in the store: %s", name.id, error)


def _write_mark(address: StoreAddress, name: SetName, file: str, facts: dict[str, Any]) -> None:
    data = (json.dumps(facts, ensure_ascii=False, default=str) + "\n").encode()
    address.opened.replace(f"{name.folder}/{file}", data, WARM_CLASS)


@contextmanager
def hold(address: StoreAddress, run: Run, names: Iterable[SetName]) -> Iterator[None]:
    """Protect sets from pruning while they are read, unless the store is read-only."""
    content, held = json.dumps({"run": run.title, "since": f"{now():%Y-%m-%dT%H:%M:%SZ}"}) + "\n", list[str]()
    try:
        for name in names:
            held.append(f"{name.folder}/hold-{run.id}.json")
            address.opened.replace(held[-1], content.encode(), WARM_CLASS)
    except BadInput as error:
        # The store refused the hold file, so that there is none.
        held.pop()
        get_run_logger().warning("the set is read without protection from pruning: %s", error)
    except OperationError as error:
        get_run_logger().warning("the set is read without protection from pruning: %s", error)
    try:
        yield
    finally:
        try:
            for key in held:
                address.opened.delete(key)
        except OperationError as error:
            get_run_logger().warning(
                "the file that protects the set from pruning could not be deleted, and counts for a week at most: %s", error
            )


@persistent
def finish_clean_up(address: StoreAddress, name: SetName, facts: dict[str, Any]) -> None:
    """Record beside the manifest that a clean-up set's rows were deleted, but those that stay."""
    _write_mark(address, name, CLEANED_FILE, facts)


def mark_if_possible(address: StoreAddress, name: SetName, state: str, facts: dict[str, Any]) -> str:
    """Record that a set was verified as `mark` does.

    Return the reason if that fails: with read-only access to the store a set can still be verified.
    """
    try:
        mark(address, name, state, facts)
    except OperationError as error:
        return f"that {name.id} was {state} could not be recorded in the store, so that it counts as not verified: {error}"
    return ""


@persistent
def mark(address: StoreAddress, name: SetName, state: str, facts: dict[str, Any]) -> None:
    """Record beside the manifest that a whole set was verified, and remove a damage mark."""
    if state not in STATES:
        raise OperationError(f"invalid set state {state}")
    _write_mark(address, name, f"{state}.json", facts)
    address.opened.delete(f"{name.folder}/{DAMAGED_FILE}")
