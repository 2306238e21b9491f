"""Messages of errors: whatever they quote, they can be recorded."""

import json

import pytest

from tasks.core.errors import DamagedSet, RestoreDiffers


@pytest.mark.parametrize(
    ("quoted", "told"),
    [
        ("a\0b", r"a\x00b"), ("\x1b[2Jcleared", r"\x1b[2Jcleared"), ("half \ud800 of a pair", r"half \ud800 of a pair"),
        ("組織\tと\n統治", "組織\tと\n統治"),
    ],
)  # fmt: skip
def test_what_nobody_can_print_is_spelled(quoted: str, told: str) -> None:
    assert str(DamagedSet(quoted)) == told
    error = RestoreDiffers(quoted, ["a difference"])
    assert (str(error), error.differences) == (told, ["a difference"])
    assert json.dumps(str(error), ensure_ascii=False).encode()
