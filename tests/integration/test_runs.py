"""What is true of every step of a flow."""

from collections.abc import Iterator

from prefect import flow, unmapped
from prefect.runtime import task_run

from tasks.run.run import step


class Unread(list[int]):
    """Rows that nobody may look through."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("looked through")


@step(name="count {what}")
def count(what: str, rows: Unread) -> tuple[str, int]:
    return str(task_run.name), len(rows)


@flow
def count_in_every_way() -> list[tuple[str, int]]:
    rows = Unread([1, 2])
    mapped = count.map(["members", "leaders"], rows=unmapped(rows)).result()
    return [count("teams", rows), count(what="users", rows=rows), count.submit("units", rows).result(), *mapped]


@flow
def count_one_after_the_other() -> list[tuple[str, int]]:
    first = count.submit("teams", Unread([1]))
    second = count.submit("users", Unread([1, 2]), wait_for=[first])
    return [count(name, Unread([]), return_state=True).result() for name in ("units",)] + [first.result(), second.result()]


def test_arguments_are_given_as_they_are(prefect_api: str) -> None:
    names = "teams", "users", "units", "members", "leaders"
    assert count_in_every_way() == [(f"count {name}", 2) for name in names]


def test_prefects_own_arguments_are_prefects(prefect_api: str) -> None:
    assert count_one_after_the_other() == [("count units", 0), ("count teams", 1), ("count users", 2)]
