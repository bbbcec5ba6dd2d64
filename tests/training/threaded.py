"""A training with a cold compile cache, a warm one, and one thread: `python -m tests.training.threaded FOLDER HOW`.

HOW is the setting `compute.compile`. One process imports torch once and forks every training from itself. Each leaves
its weights and its curve in FOLDER/NAME, and compiles for itself: what it shares with the others is on the disk.
"""

import os
import sys
import traceback
from pathlib import Path

import torch
import torch._inductor.compile_fx  # so that no life has to import it
from safetensors.torch import save_file

from pipeline.common.params import Pretrain
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights
from pipeline.training import runtime
from pipeline.training.loop import TrainPlan, train
from pipeline.training.objectives import PretrainingLoss, make_objective
from pipeline.training.optimizers import pretraining_optimizers
from tests.training.tiny import tiny_config, tiny_runtime, tiny_shard, tiny_tokenizer

THREADS = {"cold": 2, "warm": 2, "alone": 1}
# The gradients of norms and biases are sums. Other parts would only add to what is compiled.
PARTS = {"norm": "layernorm", "biases": "all", "qk_norm": False, "positions": "none", "feed_forward": "relu"}
SHAPE = {"depth": 1, "hidden_size": 64, "num_heads": 1, "intermediate_size": 64, "context_length": 128}


def train_here(folder: Path, how: str, threads: int) -> None:
    folder.mkdir()
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Transformer(tiny_config("causal", **PARTS, **SHAPE))
    chosen = tiny_runtime(compile=how)
    objective = make_objective("causal", tiny_tokenizer(), SHAPE["context_length"], Pretrain())
    train(
        model,
        PretrainingLoss(chosen),
        objective.batches(tiny_shard(), 8 * SHAPE["context_length"], None, seed=1),
        pretraining_optimizers(model, Pretrain(), lambda step: 1.0),
        TrainPlan("pretrain", 8, 1.0, 100, 100, 1.0),
        chosen,
        scratch=folder,
        validate=lambda: {},
        report=lambda step, values: None,
    )
    save_file(named_weights(model), folder / "model.safetensors")


def main(folder: Path, how: str) -> None:
    runtime.matmul_flops_per_second = lambda runtime: 1e12  # it changes no bit, and takes a while
    for name, threads in THREADS.items():
        child = os.fork()
        if child == 0:
            try:
                train_here(folder / name, how, threads)
                sys.stdout.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"the training {name} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
