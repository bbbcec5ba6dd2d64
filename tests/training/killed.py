"""A training that is stopped and killed at random moments: `python -m tests.training.killed FOLDER`.

One process imports torch once and forks every life of the training from itself: starting Python for each would take
minutes. It prints what happened as JSON and leaves the weights, `disturbed.safetensors`, and those of a training
that was left alone, `undisturbed.safetensors`.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from safetensors.torch import save_file

from pipeline.common.files import read_jsonl
from pipeline.common.processes import Interrupted
from pipeline.training import loop, runtime
from pipeline.training.checkpoints import checkpoint_steps
from tests.training.test_loop import run_training
from tests.training.tiny import tiny_runtime, tiny_shard

STEPS, MOST_STEPS = 80, 3  # of the whole training, and until a death is due
STOPS, KILLS = 2, 20
SECONDS_TO_STOP = 10.0
STOPPED = 3  # exit status


def start_life(folder: Path, name: str, checkpoint_every: int) -> int:
    """Begin the training in a child, or go on with it. Returns the child's process id."""
    child = os.fork()
    if child:
        return child
    try:
        how = {"steps": STEPS, "checkpoint_every": checkpoint_every, "validate_every": 7, "best_metric": "score"}
        weights, _ = run_training(folder / name, **how)
        save_file(weights, folder / f"{name}.safetensors")
        os._exit(0)
    except Interrupted:
        os._exit(STOPPED)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait_until_due(child: int, scratch: Path, moment: random.Random, in_write: bool) -> None:
    """Wait for some more steps, and then for a moment, or until a checkpoint is being written."""
    due = steps_done(scratch) + moment.randint(1, MOST_STEPS)
    while steps_done(scratch) < due and not has_ended(child):
        time.sleep(0.002)
    if not in_write:
        time.sleep(moment.uniform(0.0, 0.02))
    while in_write and not is_writing(scratch) and not has_ended(child):
        time.sleep(0.0002)


def steps_done(scratch: Path) -> int:
    return max((line["step"] for line in read_jsonl(scratch / loop.METRICS_FILE)), default=0)


def is_writing(scratch: Path) -> bool:
    return any(scratch.glob(".checkpoint-*.tmp"))


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_of(child: int, seconds: float = 60.0) -> int:
    """The child's exit status, -9 if it was killed. Raises TimeoutError if it does not end."""
    until = time.monotonic() + seconds
    while not has_ended(child):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"the training did not end within {seconds} s")
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    tiny_shard(), tiny_runtime()  # import and train here what every life needs
    runtime.matmul_flops_per_second = lambda runtime: 1e12  # measuring it takes longer than a life
    scratch, moment = folder / "disturbed", random.Random(1)
    found: dict[str, list[int]] = {"ends": [], "torn": [], "done": [], "checkpoints": []}
    for life in range(STOPS + KILLS):
        stop = life < STOPS
        child = start_life(folder, "disturbed", STEPS if stop else 1)
        wait_until_due(child, scratch, moment, in_write=not stop and life % 2 == 0)
        os.kill(child, signal.SIGTERM if stop else signal.SIGKILL)
        found["ends"].append(end_of(child, SECONDS_TO_STOP))
        found["torn"].append(is_writing(scratch))
        found["done"].append(steps_done(scratch))
        found["checkpoints"].append(max(checkpoint_steps(scratch), default=0))
    found["ends"] += [end_of(start_life(folder, name, 1)) for name in ("disturbed", "undisturbed")]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
