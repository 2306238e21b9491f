"""What is true of every step of a flow."""

from collections.abc import Iterator

from prefect import flow
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
def count_three_times() -> list[tuple[str, int]]:
    rows = Unread([1, 2])
    return [count("teams", rows), count(what="users", rows=rows), count.submit("units", rows).result()]


def test_arguments_are_given_as_they_are(prefect_api: str) -> None:
    assert count_three_times() == [("count teams", 2), ("count users", 2), ("count units", 2)]
