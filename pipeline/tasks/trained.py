"""What the kinds of task share: a body's token vectors, and a trained model's folder.

Legend: B rows of a batch, T positions, D hidden size.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.model.transformer import Transformer
from pipeline.model.weights import CONFIG, named_weights, read_weights, save_checkpoint_folder
from pipeline.tokenization.tokenizer import Tokenizer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MEASURED_ROWS = 32  # rows at once in validation
PREDICTED_ROWS = {"cpu": 1, "cuda": 64}  # rows at once in prediction


def token_vectors(body: Transformer, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Token ids (int64, padded on the right) and their counts to x_BTD."""
    visible_BT = None  # padding stands on the right, where no token of a decoder looks
    if body.encoder is not None:
        visible_BT = torch.arange(ids_BT.size(1), device=ids_BT.device) < lengths_B[:, None]
    return body.hidden_states(ids_BT, visible_BT)


def save_trained(
    folder: Path | str, model: nn.Module, task_config: dict[str, Any], precision: str, tokenizer: Tokenizer
) -> None:
    """Write a task model's folder: see `pipeline.model.weights`. It predicts in `precision` from then on."""
    body: Any = model.body
    config = {"model": body.config.to_dict(), "task": {**task_config, "precision": precision}}
    save_checkpoint_folder(folder, named_weights(model), config, tokenizer)


def read_trained(folder: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Weights, config and tokenizer of a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, or the task is of another kind.
    """
    weights, config, tokenizer = read_weights(folder)
    found = config.get("task", {}).get("kind")
    if found != kind:
        raise HallmarkError(f"this model's task is {found!r}, not {kind!r}", where=str(Path(folder) / CONFIG))
    return weights, config, tokenizer
