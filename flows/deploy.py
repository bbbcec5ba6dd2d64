"""Bring the Prefect server in line with this project: pools, deployments, automation. Again, it changes nothing.

python -m flows.deploy
python -m flows.deploy --nightly on        (or off)
"""

import argparse
import subprocess
import sys
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.states import StateType

from flows.command import check_server
from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError

POOLS = {"cpu": 2, "gpu": 1}  # runs at once, over all machines; raise it with each GPU machine that is added
DEPLOYMENTS = ("rebuild/gpu", "sweep/gpu", "promote/cpu")  # flow and name, as in prefect.yaml
SCHEDULED, SCHEDULE = "rebuild/gpu", "nightly"
HEARTBEATS = "hallmark: no heartbeat"
HEARTBEAT_SECONDS = 90  # three heartbeats, see prefect.toml


def ensure_pool(client: SyncPrefectClient, name: str) -> str:
    """Make a pool of processes unless it is there; one that is there keeps the limit that it was given."""
    try:
        pool = client.read_work_pool(name)
        return f"work pool {name}: there, at most {pool.concurrency_limit} runs at once"
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=POOLS[name]))
        return f"work pool {name}: made, at most {POOLS[name]} runs at once"


def heartbeat_automation(seconds: int = HEARTBEAT_SECONDS) -> AutomationCore:
    """Crash a run that was heard of, has not ended, and has been silent for this long."""
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return AutomationCore(
        name=HEARTBEATS,
        description=f"Marks a flow run as crashed when no heartbeat came for {seconds} s: its machine is dead.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {seconds} s")],
    )


def ensure_automation(client: SyncPrefectClient, automation: AutomationCore) -> str:
    """Make the automation, or bring the one of this name in line."""
    known = client.read_automations_by_name(automation.name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)
    return f"automation {automation.name!r}: {'there' if known else 'made'}; {automation.description}"


def deploy_flows() -> None:
    """Let Prefect read prefect.yaml."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise HallmarkError(f"prefect deploy failed\n{done.stdout}", where="prefect.yaml")


def find_scheduled(client: SyncPrefectClient) -> DeploymentResponse | None:
    """The deployment with the nightly schedule, if the server has it."""
    try:
        return client.read_deployment_by_name(SCHEDULED)
    except ObjectNotFound:
        return None


def switch_nightly(client: SyncPrefectClient, on: bool) -> str:
    """Switch the nightly schedule on or off; off takes back the runs that wait for their time, too."""
    deployment = client.read_deployment_by_name(SCHEDULED)
    for schedule in deployment.schedules:
        if schedule.slug == SCHEDULE and schedule.id is not None:
            client.update_deployment_schedule(deployment.id, schedule.id, active=on)
    if not on:
        scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        waiting = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter(state=scheduled),
        )
        for run in waiting:
            if run.auto_scheduled:
                client.delete_flow_run(run.id)
    return f"schedule {SCHEDULE} of {SCHEDULED}: {'on' if on else 'off (python -m flows.deploy --nightly on)'}"


def deploy(nightly: bool | None) -> None:
    """Do all of it, printing what is there now. `nightly` None leaves the schedule as it is on the server."""
    with get_client(sync_client=True) as client:
        for name in POOLS:
            print(ensure_pool(client, name))
        before = find_scheduled(client)
        was_on = before is not None and any(found.slug == SCHEDULE and found.active for found in before.schedules)
        on = was_on if nightly is None else nightly
        if before is not None and not on:
            switch_nightly(client, on)  # before the rest, so that Prefect's scheduler is done with it by then
        deploy_flows()  # switches it off, as prefect.yaml says
        for name in DEPLOYMENTS:
            print(f"deployment {name}: on pool {client.read_deployment_by_name(name).work_pool_name}")
        print(switch_nightly(client, on))
        print(ensure_automation(client, heartbeat_automation()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description="Tell the Prefect server what is here.")
    parser.add_argument("--nightly", choices=["on", "off"], help="the nightly rebuild; as it is without this")
    options = parser.parse_args()
    be_quiet()
    try:
        print(f"server {check_server()}")
        deploy(None if options.nightly is None else options.nightly == "on")
    except HallmarkError as error:
        sys.exit(f"hallmark: {error}")


if __name__ == "__main__":
    main()
