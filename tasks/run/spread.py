"""Running a step for each of many items, in parallel."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Event
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture, as_completed, wait

from tasks.run.retries import abandoned
from tasks.run.run import SMALL_BYTES, Run, jobs, step

T = TypeVar("T")
# Results of a share of small items, by their position in it.
Done = dict[int, Any]


def spread(run: Run, work: Task[..., T], calls: Sequence[tuple[Any, ...]], sizes_bytes: Iterable[int]) -> list[T]:
    """Run a task for each tuple of arguments, in parallel; return the results in that order.

    Small items share a few tasks, because a task of its own costs Prefect's server more than the
    item's work. If a task fails, no further task is started, the programs of the other tasks are
    ended, and the error is raised.
    """
    share_of = repeat_small if work.retries else do_small
    large = [number for number, size in enumerate(sizes_bytes) if size > SMALL_BYTES]
    small = [number for number in range(len(calls)) if number not in {*large}]
    shares = [share for first in range(jobs()) if (share := small[first :: jobs()])]
    begin: list[Callable[[], PrefectFuture[Any]]] = [
        *(partial(work.submit, *calls[number]) for number in large),
        *(partial(share_of.submit, work, [calls[number] for number in share], len(share), {}) for share in shares),
    ]
    futures = _run_in_turn(run, begin)
    done: dict[int, T] = {number: future.result() for number, future in zip(large, futures, strict=False)}
    for share, future in zip(shares, futures[len(large) :], strict=True):
        done.update(zip(share, future.result(), strict=True))
    return [done[number] for number in range(len(calls))]


def _do_small(work: Task[..., T], calls: Sequence[tuple[Any, ...]], count: int, done: Done) -> list[T]:
    """Do a task's work for several items in one run; further attempts do the missing ones."""
    failed = abandoned.get()
    for place, call in enumerate(calls):
        if place not in done and not (failed and failed.is_set()):
            done[place] = work.fn(*call)
    return [*done.values()]


NAME = "{work.name} ({count} small)"
do_small = step(name=NAME)(_do_small)
repeat_small = step(name=NAME, repeatable=True)(_do_small)


def _run_in_turn(run: Run, begin: Iterable[Callable[[], PrefectFuture[Any]]]) -> list[PrefectFuture[Any]]:
    """Submit tasks, at most `jobs()` at a time, and wait; on an error end the others, raise it."""
    futures, active, failed = list[PrefectFuture[Any]](), list[PrefectFuture[Any]](), Event()
    token = abandoned.set(failed)
    try:
        for submit in begin:
            futures.append(submit())
            active.append(futures[-1])
            if len(active) == jobs():
                active.remove(_first_done(active))
        for future in active:
            _first_done([future])
    except BaseException:
        failed.set()
        run.running.stop(final=False)
        wait(futures)
        raise
    finally:
        abandoned.reset(token)
    return futures


def _first_done(futures: list[PrefectFuture[T]]) -> PrefectFuture[T]:
    """Wait for the first task to end; raise its error if it failed."""
    done = next(iter(as_completed(futures)))
    done.result()
    return done
