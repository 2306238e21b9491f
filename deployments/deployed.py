"""What a Prefect server has of a context besides its blocks: work pool, variables, the deployments of prefect.yaml.

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
        BadInput: none.
    """
    every: list[dict[str, Any]] = yaml.safe_load(DECLARED.read_text("utf-8"))["deployments"]
    if found := [one for one in every if one["parameters"]["context"] == context]:
        return found
    raise BadInput(f"prefect.yaml has no deployment of {context}; copy those of another context there, with its name and tag")


def drills(client: SyncPrefectClient, context: str) -> UUID | None:
    """Return the deployment of a context's drills, None where prefect.yaml, or the server, has none."""
    for one in declared(context):
        if one["entrypoint"] == DRILL:
            with suppress(ObjectNotFound):
                return client.read_deployment_by_name(f"{_flow_of(one)}/{one['name']}").id
    return None


def require_pool(client: SyncPrefectClient, name: str) -> None:
    """Make a work pool of processes, unless there is a pool of that name, of whatever type."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))


def save_variables(pool: str | None, home: str | None) -> str:
    """Save what prefect.yaml reads; return the work pool."""
    wanted = variables(pool, home)
    for key, value in wanted.items():
        Variable.set(key, value, overwrite=True)
    return wanted[POOL]


def stale(client: SyncPrefectClient, context: str, pool: str) -> list[str]:
    """Return the names of the deployments that the server does not have, or has otherwise than prefect.yaml."""
    return [one["name"] for one in declared(context) if next(_differences_of(client, one, pool), None)]


def deploy(names: list[str]) -> None:
    """Deploy what prefect.yaml has under some names.

    Raises:
        OperationError: Prefect could not.
    """
    words = [word for name in names for word in ("--name", name)]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(DECLARED), *words],
        cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OperationError(f"prefect deploy ended with exit code {done.returncode}: {done.stdout.strip()[-2000:]}")


def variables(pool: str | None, home: str | None) -> dict[str, str]:
    """Return the Prefect variables that prefect.yaml reads: the work pool, and the folder of this project where runs are.

    What is not said stays as it is.
    """
    return {POOL: pool or str(Variable.get(POOL, "backup")), HOME: home or str(Variable.get(HOME, str(PROJECT)))}


def differences(client: SyncPrefectClient, context: str, pool: str | None, home: str | None) -> Iterator[str]:
    """Say how work pool, variables and deployments on the server differ from what is wanted."""
    wanted_variables = variables(pool, home)
    pool = wanted_variables[POOL]
    for key, value in wanted_variables.items():
        if (found := Variable.get(key)) != value:
            yield f'variable {key} is "{found}", not "{value}"' if found else f"variable {key} is missing"
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        yield f"work pool {pool} is missing"
    wanted = declared(context)
    for one in wanted:
        yield from _differences_of(client, one, pool)
    known = {one["name"] for one in wanted}
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[context]))
    for deployment in client.read_deployments(deployment_filter=tagged):
        if deployment.name not in known:
            yield f"deployment {deployment.name} is not in prefect.yaml; delete it in the UI, or add it there"


def _differences_of(client: SyncPrefectClient, wanted: dict[str, Any], pool: str) -> Iterator[str]:
    name = wanted["name"]
    try:
        found = client.read_deployment_by_name(f"{_flow_of(wanted)}/{name}")
    except ObjectNotFound:
        yield f"deployment {name} is missing"
        return
    there, here = _facts(found), _wanted_facts(wanted, pool)
    yield from (f"deployment {name}: {key} is {there[key]}, not {here[key]}" for key in here if there[key] != here[key])
    form = parameter_schema_from_entrypoint(str(PROJECT / wanted["entrypoint"])).model_dump_for_openapi()
    stored = found.parameter_openapi_schema or {}
    if any(stored.get(key) != form.get(key) for key in ("properties", "required")):
        yield f"deployment {name}: its form is not that of the flow's parameters"


def _flow_of(wanted: dict[str, Any]) -> str:
    return str(wanted["entrypoint"].partition(":")[2].replace("_", "-"))


def _wanted_facts(wanted: dict[str, Any], pool: str) -> dict[str, Any]:
    limit = wanted.get("concurrency_limit", {})
    return {
        "entrypoint": wanted["entrypoint"], "description": wanted["description"].strip(), "parameters": wanted["parameters"],
        "tags": sorted(wanted["tags"]), "work pool": pool, "paused": False,
        "job variables": wanted["work_pool"]["job_variables"], "schedules": _sorted(
            (one["cron"], one["timezone"], one["slug"], True) for one in wanted.get("schedules", [])
        ),
        "limit": tuple(limit.get(key) for key in ("limit", "collision_strategy", "grace_period_seconds")),
        "parameters enforced": True,
    }  # fmt: skip


def _facts(found: DeploymentResponse) -> dict[str, Any]:
    limit, options = found.global_concurrency_limit, found.concurrency_options
    schedules = ((one.schedule, one.slug, one.active) for one in found.schedules)
    return {
        "entrypoint": found.entrypoint, "description": (found.description or "").strip(), "parameters": found.parameters,
        "tags": sorted(found.tags), "work pool": found.work_pool_name, "paused": found.paused,
        "job variables": found.job_variables, "schedules": _sorted(
            (getattr(when, "cron", str(when)), getattr(when, "timezone", None), slug, active) for when, slug, active in schedules
        ),
        "limit": (
            limit.limit if limit else None, options.collision_strategy.value if options else None,
            options.grace_period_seconds if options else None,
        ),
        "parameters enforced": found.enforce_parameter_schema,
    }  # fmt: skip


def _sorted(schedules: Iterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(schedules, key=str)
