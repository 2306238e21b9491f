"""All of a database that a context has to itself: what the oracle sees of the context, and all that pg_dump prints."""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.local import LocalServer
from tests.support.oracle import State, ViewRows, capture, statements_of_all


@dataclass(frozen=True)
class Whole:
    """A database as it was."""

    context: State
    statements: dict[str, str]

    def assert_equal(self, other: "Whole", *, views: ViewRows = "recomputed") -> None:
        """Assert that another database, or the same one later, is as this one was."""
        names = sorted(self.statements.keys() | other.statements.keys())
        texts = [(self.statements.get(one), other.statements.get(one)) for one in names]
        unlike = [
            *self.context.differences(other.context, views=views),
            *(f"{old}\n->\n{new}" for old, new in texts if old != new),
        ]  # fmt: skip
        assert not unlike, "\n".join(unlike)


def whole(server: LocalServer, database: str, namespace: str, tables: Sequence[str], views: Sequence[str]) -> Whole:
    """Return a database with what is there of a context's tables and views."""
    with server.connect(database) as connection:
        connection.execute("SET search_path = pg_catalog")
        spelled = [
            [
                row[0] for name in names
                for row in connection.execute("SELECT to_regclass(format('%%I.%%I', %s::text, %s::text))::text", [namespace, name])
                if row[0]
            ] for names in (tables, views)
        ]  # fmt: skip
    conninfo = server.conninfo(database)
    state = capture(conninfo, bin_dir=server.bin, tables=spelled[0], views=spelled[1])
    return Whole(state, statements_of_all(conninfo, bin_dir=server.bin))
