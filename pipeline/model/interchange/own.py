"""A model that was made here, pretrained or fine-tuned, as pretraining's start."""

from pathlib import Path
from typing import Any

import torch

from pipeline.common.errors import HallmarkError
from pipeline.common.files import sha256_file
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import CONFIG, TOKENIZER_FILE, WEIGHTS, read_weights, save_checkpoint_folder

SCHEME = "hallmark:"
BODY = "body."  # what a task's network calls the language model in it
HEADS = ("lm_head.", "pair_head.")


def adopt_model(source: str, found: Path, folder: Path | str) -> dict[str, Any]:
    """Write the language model of a folder of our own, without the head of a task.

    Args:
        source: how the user named it.
        found: the folder: of a pretrained model, or of one of any kind of task.
        folder: where it goes.

    Returns:
        What config.json says under "import": see `pipeline.model.interchange.importing.import_model`. Kinds with a head
        of their own have kept none that predicts tokens.

    Raises:
        HallmarkError: its files do not belong together, or it kept only the encoder of its network.
    """
    weights, described, tokenizer = read_weights(found)
    prefix, kind = (BODY, described["task"]["kind"]) if "task" in described else ("", "language model")
    kept = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    with torch.device("meta"):
        own = {name for name, _ in Transformer(ModelConfig.from_dict(described["model"])).named_parameters()}
    missing = sorted(own - kept.keys())
    if lost := [name for name in missing if not name.startswith(HEADS)]:
        raise HallmarkError(
            f"this model of kind {kind} has no decoder any more: {len(lost)} weights are missing, such as {lost[0]}",
            where=source,
            fix="start from the pretrained model that it was made of",
        )
    told = {
        "source": source,
        "model_type": kind,
        "files": {name: sha256_file(found / name) for name in (CONFIG, WEIGHTS, TOKENIZER_FILE)},
        "missing": missing,
        "left_behind": sorted(name for name in weights if not name.startswith(prefix)),
    }
    save_checkpoint_folder(folder, kept, {"model": described["model"], "import": told}, tokenizer)
    return told
