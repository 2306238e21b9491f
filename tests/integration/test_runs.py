"""What is true of every step of a flow."""

from typing import NoReturn

from prefect import flow

from tasks.runs import step


class Unread(list[int]):
    """Rows that nobody may look through."""

    def __iter__(self) -> NoReturn:  # type: ignore[override]
        raise AssertionError("looked through")


@step
def count(rows: Unread) -> int:
    return len(rows)


@flow
def count_three_times() -> list[int]:
    rows = Unread([1, 2])
    return [count(rows), count(rows=rows), count.submit(rows).result()]


def test_arguments_are_given_as_they_are(prefect_api: str) -> None:
    assert count_three_times() == [2, 2, 2]
