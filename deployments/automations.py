"""What Prefect's server does if a run fails or dies, no watch succeeds, or a schema changes.

See https://docs.prefect.io/v3/concepts/automations
"""

import json
from collections.abc import Iterable, Set
from datetime import timedelta
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.core.context import Context
from tasks.core.restore.drill import SCHEMA_CHANGED, automation_of_drills

# Three runs of the watch, which runs every 15 minutes, and some margin.
SILENCE = timedelta(hours=1)
# A backup with the same schema requests a drill again after a day, or in the same night if the
# backup is repeated.
ASKED_ONCE = timedelta(hours=20)
# Ten heartbeats, at the interval set in prefect.yaml: a restart of the server must not look like a
# dead run. Not fewer: for five minutes Prefect waits for the event before this one, and a restarted
# server holds the event back for 15 minutes.
DEAD_AFTER = timedelta(minutes=5)
HEARTBEAT = "prefect.flow-run.heartbeat"
# Events of a worker that starts a run, and of the run itself: each has to be followed by another
# event of the run.
ALIVE = {HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ("Pending", "Submitting", "Running"))}
# Any other event of a run (it ended, it waits for a thaw without a process) counts as a sign of
# life.
ANYTHING = "prefect.flow-run.*"
Stance = Literal[Posture.Reactive, Posture.Proactive]
RUNS = ResourceSpecification({"prefect.resource.id": ANYTHING})


def automations(
    context: Context, notified: UUID | None, drill: UUID | None, silence: timedelta = SILENCE, dead_after: timedelta = DEAD_AFTER
) -> list[AutomationCore]:
    """Return a context's automations: alarms need a notification block, drills a deployment."""
    alarms = [run_failed(context, notified), nothing_kept(context, notified, silence)] if notified else []
    return [run_died(context, dead_after), *([schema_changed(context, drill)] if drill else []), *alarms]


def run_failed_name(context: Context) -> str:
    """Return the name of the alarm for failed runs."""
    return f"{context.name}: run failed"


def run_failed(context: Context, block_id: UUID) -> AutomationCore:
    """Notify of each run that fails or crashes."""
    return AutomationCore(
        name=run_failed_name(context),
        description="実行の失敗・異常終了を知らせます。Notifies of each run that fails or crashes.",
        trigger=_trigger(context, {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, Posture.Reactive, timedelta(0)),
        actions=[
            SendNotification(
                block_document_id=block_id, subject="{{ flow_run.name }}: {{ flow_run.state.name "
                                                    "}}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
    )  # fmt: skip


def nothing_kept(context: Context, block_id: UUID, silence: timedelta) -> AutomationCore:
    """Notify if no watch has confirmed for a while that the RPO is met, whatever the reason."""
    minutes = round(silence.total_seconds() / 60)
    return AutomationCore(
        name=f"{context.name}: no recovery point",
        description="復旧時点の確認が途絶えたことを知らせます。Notifies when the recovery point is no longer confirmed.",
        # Without `after` it also fires if there never was an event.
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": f"bounded-context.{context.name}"}),
            expect={"recovery-point.kept"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            SendNotification(
                block_document_id=block_id,
                subject=f"{context.name}: no restorable state confirmed for {minutes} minutes",
                body=f"復旧可能な状態が{minutes}分間確認されていません。watch_recovery_point of {context.name} has not "
                f"confirmed for {minutes} minutes that the RPO of {context.objectives.rpo} is "
                "kept: check whether the worker runs, and what the last run of the watch reported.",
            )
        ],
    )


def run_died(context: Context, dead_after: timedelta) -> AutomationCore:
    """Set a run that died with its worker to crashed, to free its concurrency slot."""
    trigger = _trigger(context, {ANYTHING}, Posture.Proactive, dead_after)
    return AutomationCore(
        name=f"{context.name}: run died",
        description="応答のなくなった実行を異常終了とします。Sets a run that sends no heartbeats any more to crashed.",
        trigger=trigger.model_copy(update={"after": ALIVE, "for_each": {"prefect.resource.id"}}),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", force=False,
                message=f"sent no heartbeat for {dead_after}: the process was killed, or its "
                        "machine is down",
            )
        ],
    )  # fmt: skip


def schema_changed(context: Context, drill: UUID) -> AutomationCore:
    """Start a drill of a schema that no drill has restored, and again after a failed drill."""
    return AutomationCore(
        name=automation_of_drills(context.name),
        description="変更されたスキーマのバックアップで復旧訓練を行います。Runs a drill of a backup whose schema no drill has "
                    "proven.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": f"bounded-context.{context.name}"}),
            for_each={"prefect.resource.id", "schema.fingerprint", "drill.last"}, expect={SCHEMA_CHANGED},
            posture=Posture.Reactive, threshold=1, within=ASKED_ONCE,
        ),
        actions=[
            RunDeployment(
                source="selected", deployment_id=drill, job_variables=None,
                parameters={"context": context.name, "backup": "{{ event.payload['set'] }}"},
            )
        ],
    )  # fmt: skip


def _trigger(context: Context, expect: Set[str], posture: Stance, within: timedelta) -> EventTrigger:
    tag: dict[str, str | list[str]] = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{context.name}"}
    return EventTrigger(
        match=RUNS, match_related=ResourceSpecification(tag), expect=set(expect), posture=posture, threshold=1, within=within
    )  # fmt: skip


def notification_block(client: SyncPrefectClient, context: Context) -> UUID | None:
    """Return the notification block of the context's alarms, as registered before."""
    alarms = client.read_automations_by_name(run_failed_name(context))
    actions = (action for alarm in alarms for action in alarm.actions if isinstance(action, SendNotification))
    return next((action.block_document_id for action in actions), None)


def stale(client: SyncPrefectClient, expected: Iterable[AutomationCore]) -> list[tuple[AutomationCore, list[Automation]]]:
    """Return automations that are missing, differ or exist twice, with those that they replace."""
    pairs = [(automation, list(client.read_automations_by_name(automation.name))) for automation in expected]
    return [
        (automation, saved) for automation, saved in pairs if len(saved) != 1 or _comparable(saved[0]) != _comparable(automation)
    ]


def save(client: SyncPrefectClient, expected: Iterable[AutomationCore]) -> None:
    """Save each automation in place of earlier ones, as names are not unique to the server."""
    for automation, saved in stale(client, expected):
        client.create_automation(automation)
        for old in saved:
            client.delete_automation(old.id)


def _comparable(automation: AutomationCore) -> str:
    """Return an automation as comparable text: its sets and mappings in a fixed order."""
    content = automation.model_dump(mode="json", include={"name", "description", "enabled", "actions"})
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    ordered = {key: sorted(value) if isinstance(value, list) else value for key, value in trigger.items()}
    return json.dumps({**content, "trigger": ordered}, sort_keys=True)
