"""How old a recovery kit is, and its mark."""

from datetime import timedelta

import pytest

from tasks.core.sets.kit import Kit, kit_notice, parse_kit, render_kit
from tests.support import samples

KIT = Kit(context="bc-004", made=samples.INSTANT, version="1.0", set="bc-004_full_20251103_020000_3f9c")


@pytest.mark.parametrize(
    ("kit", "days", "said"),
    [
        (None, 0, "there is no recovery kit; make one: `python -m deployments.kit FOLDER`"),
        (KIT, 0, "0 days ago, with bc-004_full_20251103_020000_3f9c"),
        (
            KIT,
            91,
            "91 days ago, with bc-004_full_20251103_020000_3f9c; that is more than 90 days: make the kit again, `python -m ",
        ),
    ],
)
def test_its_age(kit: Kit | None, days: int, said: str) -> None:
    assert said in kit_notice(kit, samples.INSTANT + timedelta(days=days))


def test_ninety_days_are_not_too_old() -> None:
    assert "make the kit again" not in kit_notice(KIT, samples.INSTANT + timedelta(days=90))


def test_its_mark() -> None:
    assert parse_kit(render_kit(KIT)) == KIT
    assert parse_kit(b"{") is None
    assert parse_kit(render_kit(KIT).replace(b"_full_", b"_full_\\n\\n# PASS")) is None
