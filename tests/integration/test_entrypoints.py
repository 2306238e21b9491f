"""Every deployment of prefect.yaml loads as a worker loads it, its docstring is what the UI will show, its schedule is Tokyo's."""

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from cronsim import CronSim
from prefect.flows import load_flow_from_entrypoint

PROJECT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
SCHEDULED = [(one["name"], schedule) for one in DEPLOYMENTS for schedule in one.get("schedules", [])]
FLOWS = {
    "daily_backup", "differential_backup", "list_backups", "verify_backups", "watch_recovery_point", "prune_backups",
    "full_restore", "table_restore", "disaster_recovery", "recovery_drill", "integrity_check", "long_term_backup",
    "create_partitions", "archive_partitions", "reattach_partition", "refresh_views", "clean_up_old_data",
    "restore_cleaned_up",
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
