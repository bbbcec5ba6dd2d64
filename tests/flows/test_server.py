"""The flows on a real Prefect server and a real worker: what is scheduled runs, and what is killed leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.events.schemas.events import Event, Resource
from prefect.flows import Flow
from prefect.states import Cancelling, Running

from flows.deploy import HEARTBEATS, ensure_automation, heartbeat_automation, switch_nightly
from pipeline.common.ports import free_port
from tests.flows.conftest import (
    gpu_is_free,
    prefect_server,
    processes_in,
    run,
    started,
    until,
    wish,
    write_project,
)
from tests.toy import ToyProject

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

FINAL = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
ASK_AGAIN = 0.3  # seconds: each answer takes the server time that the runs could use
IMPATIENT = {  # the same services, with shorter waits
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


@dataclass
class Site:
    """A Prefect server on loopback, a project that is deployed on it, and what a user types there."""

    project: Path
    client: SyncPrefectClient
    environment: dict[str, str]
    deployed: str = ""  # what the first `python -m flows.deploy` said

    def type(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project to its end."""
        words = [sys.executable, *command]
        return subprocess.run(
            words, cwd=self.project, env=self.environment, text=True, capture_output=True, timeout=120
        )

    def start_worker(self) -> subprocess.Popen[bytes]:
        log = (self.project.parent / "worker.log").open("ab")
        command = [sys.executable, "-m", "flows.worker", "--pool", "gpu"]
        return subprocess.Popen(command, cwd=self.project, env=self.environment, stdout=log, stderr=log)

    def worker_log(self) -> str:
        return (self.project.parent / "worker.log").read_text()

    def start_run(self, **parameters: Any) -> UUID:
        deployment = self.client.read_deployment_by_name("rebuild/gpu")
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def read(self, run_id: UUID) -> FlowRun:
        return self.client.read_flow_run(run_id)

    def state(self, run_id: UUID) -> StateType:
        state = self.read(run_id).state
        assert state is not None
        return state.type

    def until_final(self, run_id: UUID) -> StateType:
        until(lambda: self.state(run_id) in FINAL, 60, ASK_AGAIN)
        return self.state(run_id)

    def tasks(self, run_id: UUID) -> dict[str, str]:
        """The name of each task's last state, once the server knows it: it hears of tasks later than of their run."""
        until(lambda: all(task.state and task.state.is_final() for task in self._task_runs(run_id)), 20, ASK_AGAIN)
        return {task.name: task.state_name or "" for task in self._task_runs(run_id)}

    def _task_runs(self, run_id: UUID) -> list[TaskRun]:
        return self.client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))

    def change(self) -> None:
        """Make `train`, and `report` after it, stale; `train` waits until it is told to stop."""
        self.settle()
        wish(self.project, "wait")
        rate = time.monotonic_ns() % 10**9 / 10**9
        (self.project / "params.yaml").write_text(f"finetune:\n  learning_rate: {rate}\n")

    def settle(self) -> None:
        for name in ("scratch.txt", "started.txt"):
            (self.project / ".hallmark" / name).unlink(missing_ok=True)

    def nothing_is_left(self, *but: subprocess.Popen[bytes]) -> bool:
        left = {process.pid for process in processes_in(self.project)} - {process.pid for process in but}
        return not left and gpu_is_free(self.project)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    project = write_project(folder / "project")
    text = (project / "prefect.yaml").read_text()
    (project / "prefect.yaml").write_text(text.replace('cron: "0 2 * * *"', "interval: 5").replace("timezone: UTC", ""))
    run(sys.executable, "-m", "dvc", "repro", "-q", cwd=project)
    with (
        prefect_server(folder, prefect_database, IMPATIENT) as settings,
        SyncPrefectClient(api=settings["PREFECT_API_URL"]) as client,
    ):
        site = Site(project, client, settings)
        done = site.type("-m", "flows.deploy")
        assert done.returncode == 0, done.stderr
        site.deployed = done.stdout
        yield site


@pytest.fixture(scope="module")
def silent_run(site: Site) -> UUID:
    """A run that said it is alive, once, and has no process: its machine is dead. Told after 10 s, not 90."""
    impatient = heartbeat_automation(seconds=10).model_copy(update={"name": "the same, after 10 s"})
    ensure_automation(site.client, impatient)
    run_id = site.client.create_flow_run(Flow(lambda: None, name="silent"), state=Running()).id
    resource = Resource({"prefect.resource.id": f"prefect.flow-run.{run_id}"})
    event = Event(event="prefect.flow-run.heartbeat", resource=resource, payload={})
    site.client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
    return run_id


@pytest.fixture
def worker(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool `gpu`."""
    process = site.start_worker()
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        until(site.nothing_is_left, 30)


def test_the_set_up_is_one_command(site: Site) -> None:
    assert "work pool gpu: made, at most 1 runs at once" in site.deployed
    assert "schedule nightly of rebuild/gpu: off" in site.deployed
    for name in ("rebuild/gpu", "sweep/gpu", "promote/cpu"):
        found = site.client.read_deployment_by_name(name)
        assert found.work_pool_name == name.partition("/")[2]
        assert [schedule.active for schedule in found.schedules] == ([False] if name == "rebuild/gpu" else [])
    assert len(site.client.read_automations_by_name(HEARTBEATS)) == 1


@pytest.mark.usefixtures("silent_run")  # it takes its time meanwhile
def test_a_scheduled_run_starts_by_itself_and_completes(site: Site, worker: subprocess.Popen[bytes]) -> None:
    site.settle()
    wish(site.project, "")
    (site.project / "source.txt").write_text("new")
    done = site.type("-m", "flows.deploy", "--nightly", "on")
    try:
        assert "schedule nightly of rebuild/gpu: on" in done.stdout
        assert "work pool gpu: there" in done.stdout  # doing it again changes nothing
        assert len(site.client.read_automations_by_name(HEARTBEATS)) == 1
        until(lambda: len(scheduled_and_completed(site)) >= 2, 90)  # asked often, since a third one is waiting
    finally:
        switch_nightly(site.client, on=False)
    until(lambda: all(run.state and run.state.is_final() for run in scheduled(site)), 60, ASK_AGAIN)  # some just began
    until(lambda: site.nothing_is_left(worker), 30)
    first, second = scheduled_and_completed(site)[:2]
    assert site.tasks(first.id) == dict.fromkeys(["prepare", "train", "count", "report"], "Completed")
    assert first.state is not None
    assert first.state.message == "4 ran"
    assert site.tasks(second.id) == dict.fromkeys(["prepare", "train", "count", "report"], "Unchanged")
    assert started(site.project).count("train") == 1
    page = artifact(site, "rebuild-result")
    assert "| train | unchanged |" in page
    assert "| train | f1 | 0.500 [0.400, 0.600] |" in page


def scheduled(site: Site) -> list[FlowRun]:
    return [run for run in site.client.read_flow_runs() if run.auto_scheduled]


def scheduled_and_completed(site: Site) -> list[FlowRun]:
    runs = [run for run in scheduled(site) if run.state and run.state.is_completed()]
    return sorted(runs, key=lambda run: run.start_time or run.created)


def artifact(site: Site, key: str) -> str:
    return site.client.request("GET", "/artifacts/{key}/latest", path_params={"key": key}).json()["data"]


def test_a_cancelled_run_saves_leaves_nothing_and_goes_on_later(site: Site, worker: subprocess.Popen[bytes]) -> None:
    site.change()
    run_id = site.start_run()
    until(lambda: started(site.project) == ["train"])
    assert not gpu_is_free(site.project)
    site.client.set_flow_run_state(run_id, Cancelling())
    assert site.until_final(run_id) == StateType.CANCELLED
    until(lambda: site.nothing_is_left(worker), 10)
    assert (site.project / ".hallmark/scratch.txt").read_text() == "half"
    resumed = site.start_run()
    assert site.until_final(resumed) == StateType.COMPLETED
    fresh, stale = dict.fromkeys(["prepare", "count"], "Unchanged"), dict.fromkeys(["train", "report"], "Completed")
    assert site.tasks(resumed) == fresh | stale


def test_a_worker_killed_in_mid_flow_takes_its_run_with_it(site: Site, worker: subprocess.Popen[bytes]) -> None:
    site.change()
    run_id = site.start_run()
    until(lambda: started(site.project) == ["train"])
    worker.kill()
    assert site.until_final(run_id) == StateType.CRASHED  # the run itself says so, with its last breath
    until(site.nothing_is_left, 10)
    assert (site.project / ".hallmark/scratch.txt").exists()


def test_a_run_whose_output_nobody_reads_goes_on(site: Site) -> None:
    site.settle()
    wish(site.project, "")
    run_id = site.start_run()
    environment = {**site.environment, "PREFECT__FLOW_RUN_ID": str(run_id)}
    reader, writer = os.pipe()
    os.close(reader)  # as when the worker dies, at the worst moment
    with os.fdopen(writer) as nobody:
        job = [sys.executable, "-m", "flows.job"]
        subprocess.run(job, cwd=site.project, env=environment, stdout=nobody, stderr=nobody, timeout=120)
    assert site.state(run_id) == StateType.COMPLETED, site.read(run_id).state


def test_a_run_killed_with_its_worker_is_cleared_by_the_next_worker(site: Site) -> None:
    site.change()
    victim = site.start_worker()
    run_id = site.start_run()
    until(lambda: started(site.project) == ["train"])
    flow = int(site.read(run_id).infrastructure_pid or 0)
    victim.send_signal(signal.SIGSTOP)  # so that it reports nothing
    os.kill(flow, signal.SIGKILL)
    victim.kill()
    victim.wait(10)
    until(site.nothing_is_left, 15)
    assert site.state(run_id) == StateType.RUNNING  # and holds the pool's only slot
    following = site.start_worker()
    try:
        assert site.until_final(run_id) == StateType.CRASHED
        assert f"cleared run {site.read(run_id).name}: its process is dead, now crashed" in site.worker_log()
        assert site.until_final(site.start_run()) == StateType.COMPLETED  # from what was saved
    finally:
        following.terminate()
        following.wait(30)


def test_other_settings_are_built_without_touching_the_file(site: Site) -> None:
    site.settle()
    wish(site.project, "")
    before = (site.project / "params.yaml").read_text()
    done = site.type("-m", "flows.rebuild", "--set", "finetune.learning_rate=1e-4")
    assert done.returncode == 0, done.stderr
    assert "2 unchanged, 2 ran" in done.stdout
    assert "train says hello in 2" in done.stderr  # the log, line by line; in a worktree named by its build
    assert (site.project / "params.yaml").read_text() == before
    wrong = site.type("-m", "flows.rebuild", "--set", "finetune.learning_rat=1e-4")
    assert wrong.returncode == 1
    assert "did you mean learning_rate? allowed: adapt," in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(("what", "tries"), [("fail once", 2), ("fail", 1)])
def test_a_failed_training_is_tried_again_unless_it_knows_better(site: Site, what: str, tries: int) -> None:
    site.change()
    wish(site.project, what)
    done = site.type("-m", "flows.rebuild")
    assert started(site.project).count("train") == tries
    assert done.returncode == (0 if what == "fail once" else 1)
    if what == "fail":
        assert "hallmark: failed: train failed" in done.stderr
        assert "next: lower the learning rate" in done.stderr
        assert "report" not in started(site.project)


def test_a_flow_interrupted_at_the_terminal_leaves_nothing(site: Site) -> None:
    site.change()
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.rebuild"], cwd=site.project, env=site.environment, stderr=subprocess.DEVNULL
    )
    until(lambda: started(site.project) == ["train"])
    flow.send_signal(signal.SIGINT)
    assert flow.wait(30) != 0
    assert site.nothing_is_left()


def test_a_silent_run_is_crashed_by_the_automation(site: Site, silent_run: UUID) -> None:
    assert site.until_final(silent_run) == StateType.CRASHED
    state = site.read(silent_run).state
    assert state is not None
    assert state.message == "no heartbeat for 10 s"


@pytest.mark.end_to_end
def test_a_registry_without_the_built_model_gets_it_and_it_becomes_champion(
    site: Site, built_project: ToyProject, tmp_path: Path
) -> None:
    toy = built_project.copy(tmp_path / "toy")
    names = ("PREFECT_HOME", "PREFECT_API_URL")
    settings = {"HALLMARK_TRACKING": "on"} | {name: site.environment[name] for name in names}
    done = toy.run(sys.executable, "-m", "flows.rebuild", environment=settings)
    assert done.stdout == f"{len(toy.lock)} unchanged\n"
    assert "hallmark-package version 1 (challenger)" in done.stderr
    log = toy.root / ".hallmark/mlflow/mlflow.db-wal"
    assert not log.exists() or log.stat().st_size == 0  # all is in the one file
    promoted = toy.run(sys.executable, "-m", "flows.promote", environment=settings)
    assert promoted.stdout == "package version 1: first champion, promoted\n"


def test_without_a_server_the_command_says_what_to_type(site: Site) -> None:
    nowhere = {**site.environment, "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    alone = Site(site.project, site.client, nowhere)
    done = alone.type("-m", "flows.rebuild")
    assert done.returncode == 1
    assert "no Prefect server answers" in done.stderr
    assert "next: prefect server start" in done.stderr
    until(site.nothing_is_left, 10)
