"""Every deployment of prefect.yaml loads as a worker loads it, its docstring is what the UI will show, its schedule is Tokyo's."""

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from cronsim import CronSim
from prefect.flows import load_flow_from_entrypoint

from flows.command_line import run_from_command_line
from flows.restore import restore_cleaned_up
from tests.support import PROJECT

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
SCHEDULED = [(one["name"], schedule) for one in DEPLOYMENTS for schedule in one.get("schedules", [])]
FLOWS = {
    "daily_backup", "differential_backup", "list_backups", "verify_backups", "watch_recovery_point", "prune_backups",
    "full_restore", "table_restore", "disaster_recovery", "recovery_drill", "integrity_check", "long_term_backup",
    "create_partitions", "archive_partitions", "reattach_partition", "refresh_views", "clean_up_old_data",
    "restore_cleaned_up", "backup_report",
}  # fmt: skip
# When the scripts that this replaces were run, by what each did.
DOCUMENT = {
    "bc-004-daily": "0 2 * * *", "bc-004-differential": "0 */4 * * *", "bc-004-violations": "0 3 1 * *",
    "bc-004-create-partitions": "0 4 1 12 *", "bc-004-archive": "0 5 15 1 *", "bc-004-refresh-user-allocation": "0 * * * *",
    "bc-004-refresh-team-statistics": "15 * * * *", "bc-004-refresh-unit-statistics": "0 1 * * *", "bc-004-clean-up": "0 3 1 * *",
}  # fmt: skip
BY_DAY = {"hourly", "four-hourly", "quarter-hourly"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_loads_and_takes_its_parameters(deployment: dict[str, Any]) -> None:
    loaded = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert loaded.fn.__name__ == deployment["entrypoint"].partition(":")[2]
    assert loaded.description
    assert loaded.parameters.properties["context"]["default"] == "bc-004"
    assert all(one.get("description") for one in loaded.parameters.properties.values()), "each parameter is told in Args"
    # What the operator has to say himself when he starts it.
    asked = dict.fromkeys(loaded.parameters.required, "2023")
    loaded.validate_parameters(asked | deployment["parameters"])


def test_every_flow_is_deployed() -> None:
    assert {one["entrypoint"].partition(":")[2] for one in DEPLOYMENTS} == FLOWS


@pytest.mark.parametrize(("name", "schedule"), SCHEDULED, ids=[name for name, _ in SCHEDULED])
def test_schedules_are_in_tokyo(name: str, schedule: dict[str, str]) -> None:
    assert schedule["timezone"] == "Asia/Tokyo", name
    night = next(CronSim(schedule["cron"], datetime(2026, 11, 23, 12, tzinfo=ZoneInfo("Asia/Tokyo"))))
    assert schedule["slug"] in BY_DAY or 1 <= night.hour <= 7


def test_schedules_are_those_of_the_document_and_of_ours() -> None:
    crons = {name: schedule["cron"] for name, schedule in SCHEDULED}
    assert crons.items() >= DOCUMENT.items()
    text = (PROJECT / "docs" / "flows.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(bc-004-[a-z-]+)` \| `([^`]+)` \|", text, re.MULTILINE)) == crons


def test_deployments_say_what_they_are_in_both_languages() -> None:
    for one in DEPLOYMENTS:
        english, japanese = one["description"].strip().split("\n\n")
        assert english.isascii(), one["name"]
        assert re.search("[ぁ-んァ-ヶ]", japanese), one["name"]


def told_by_hand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[object, str]:
    """Return exit code and text of a command line that is refused, or asks for help."""
    # However wide the terminal is, and whoever wants colours.
    for name, value in (("COLUMNS", "200"), ("NO_COLOR", "1"), ("FORCE_COLOR", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["restore", "restore_cleaned_up", *words])
    with pytest.raises(SystemExit) as ended:
        run_from_command_line(restore_cleaned_up)
    told = capsys.readouterr()
    return ended.value.code, " ".join((told.out + told.err).split())


def test_by_hand_it_is_told_what_to_type(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = told_by_hand(capsys, monkeypatch, "--help")
    assert code == 0 and "Restore rows that a clean-up deleted" in said and "Args:" not in said
    assert "--backup BACKUP the clean-up set that has the rows, by id or path." in said and "(default: True)" in said
    code, said = told_by_hand(capsys, monkeypatch)
    assert code == 2 and "the following arguments are required: --backup" in said
    code, said = told_by_hand(capsys, monkeypatch, "--backup", "x", "--confirm", "consulting_tool")
    assert code == 2 and "unrecognized arguments: --confirm" in said
