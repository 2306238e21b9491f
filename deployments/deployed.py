"""A context's objects on a Prefect server other than blocks: work pool, variables, deployments.

See https://docs.prefect.io/v3/how-to-guides/deployments/prefect-yaml
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema_from_entrypoint
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker

from tasks.core.errors import BadInput, OperationError

PROJECT = Path(__file__).parents[1]
DECLARED = PROJECT / "prefect.yaml"
POOL, HOME = "backup_work_pool", "backup_home"
DRILL = "flows/recovery.py:recovery_drill"


def declared(context: str) -> list[dict[str, Any]]:
    """Return the deployments that prefect.yaml has for a context.

    Raises:
        BadInput: prefect.yaml has none.
    """
    every: list[dict[str, Any]] = yaml.safe_load(DECLARED.read_text("utf-8"))["deployments"]
    if own := [deployment for deployment in every if deployment["parameters"]["context"] == context]:
        return own
    raise BadInput(
        f"prefect.yaml has no deployment of {context}; copy the deployments of another context "
        f"there, and change name and tag to {context}"
    )


def drills(client: SyncPrefectClient, context: str) -> UUID | None:
    """Return the deployment that runs a context's drills, or None if there is none."""
    for deployment in declared(context):
        if deployment["entrypoint"] == DRILL:
            with suppress(ObjectNotFound):
                return client.read_deployment_by_name(f"{_flow_of(deployment)}/{deployment['name']}").id
    return None


def require_pool(client: SyncPrefectClient, name: str) -> None:
    """Create a process work pool, unless there is a pool of that name, of any type."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))


def save_variables(pool: str | None, home: str | None) -> str:
    """Save the variables of prefect.yaml; return the work pool."""
    values = variables(pool, home)
    for key, value in values.items():
        Variable.set(key, value, overwrite=True)
    return values[POOL]


def stale(client: SyncPrefectClient, context: str, pool: str) -> list[str]:
    """Return names of deployments that are missing on the server or differ from prefect.yaml."""
    return [deployment["name"] for deployment in declared(context) if next(_differences_of(client, deployment, pool), None)]


def deploy(names: list[str]) -> None:
    """Deploy some deployments of prefect.yaml.

    Raises:
        OperationError: `prefect deploy` failed.
    """
    words = [word for name in names for word in ("--name", name)]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(DECLARED), *words],
        cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OperationError(f"prefect deploy ended with exit code {done.returncode}: {done.stdout.strip()[-2000:]}")


def variables(pool: str | None, home: str | None) -> dict[str, str]:
    """Return the variables that prefect.yaml reads: the work pool, and the project's folder there.

    A value that is not given keeps its saved one.
    """
    return {POOL: pool or str(Variable.get(POOL, "backup")), HOME: home or str(Variable.get(HOME, str(PROJECT)))}


def differences(client: SyncPrefectClient, context: str, pool: str | None, home: str | None) -> Iterator[str]:
    """Yield how work pool, variables and deployments on the server differ from those expected."""
    expected_variables = variables(pool, home)
    pool = expected_variables[POOL]
    for key, value in expected_variables.items():
        if (current := Variable.get(key)) != value:
            yield f'variable {key} is "{current}", not "{value}"' if current else f"variable {key} is missing"
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        yield f"work pool {pool} is missing"
    expected = declared(context)
    for deployment in expected:
        yield from _differences_of(client, deployment, pool)
    names = {deployment["name"] for deployment in expected}
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[context]))
    for registered in client.read_deployments(deployment_filter=tagged):
        if registered.name not in names:
            yield f"deployment {registered.name} is not in prefect.yaml; delete it in the UI, or add it there"


def _differences_of(client: SyncPrefectClient, expected: dict[str, Any], pool: str) -> Iterator[str]:
    name = expected["name"]
    try:
        current = client.read_deployment_by_name(f"{_flow_of(expected)}/{name}")
    except ObjectNotFound:
        yield f"deployment {name} is missing"
        return
    current_facts, expected_facts = _facts(current), _expected_facts(expected, pool)
    yield from (
        f"deployment {name}: {key} is {current_facts[key]}, not {expected_facts[key]}"
        for key in expected_facts
        if current_facts[key] != expected_facts[key]
    )
    form = parameter_schema_from_entrypoint(str(PROJECT / expected["entrypoint"])).model_dump_for_openapi()
    stored = current.parameter_openapi_schema or {}
    if any(stored.get(key) != form.get(key) for key in ("properties", "required")):
        yield f"deployment {name}: its parameter form differs from the flow's parameters"


def _flow_of(deployment: dict[str, Any]) -> str:
    return str(deployment["entrypoint"].partition(":")[2].replace("_", "-"))


def _expected_facts(deployment: dict[str, Any], pool: str) -> dict[str, Any]:
    limit = deployment.get("concurrency_limit", {})
    return {
        "entrypoint": deployment["entrypoint"],
        "description": deployment["description"].strip(),
        "parameters": deployment["parameters"],
        "tags": sorted(deployment["tags"]),
        "work pool": pool,
        "paused": False,
        "job variables": deployment["work_pool"]["job_variables"],
        "schedules": _sorted(
            (schedule["cron"], schedule["timezone"], schedule["slug"], True) for schedule in deployment.get("schedules", [])
        ),
        "limit": tuple(limit.get(key) for key in ("limit", "collision_strategy", "grace_period_seconds")),
        "parameters enforced": True,
    }


def _facts(current: DeploymentResponse) -> dict[str, Any]:
    limit, options = current.global_concurrency_limit, current.concurrency_options
    schedules = ((schedule.schedule, schedule.slug, schedule.active) for schedule in current.schedules)
    return {
        "entrypoint": current.entrypoint,
        "description": (current.description or "").strip(),
        "parameters": current.parameters,
        "tags": sorted(current.tags),
        "work pool": current.work_pool_name,
        "paused": current.paused,
        "job variables": current.job_variables,
        "schedules": _sorted(
            (getattr(schedule, "cron", str(schedule)), getattr(schedule, "timezone", None), slug, active)
            for schedule, slug, active in schedules
        ),
        "limit": (
            limit.limit if limit else None,
            options.collision_strategy.value if options else None,
            options.grace_period_seconds if options else None,
        ),
        "parameters enforced": current.enforce_parameter_schema,
    }


def _sorted(schedules: Iterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(schedules, key=str)
