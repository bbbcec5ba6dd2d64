"""A folder that holds a network: weights, configuration and tokenizer that belong together.

model.safetensors   the weights, float32
config.json         what was given, plus "tokenizer_hash" and "weights_sha256"
tokenizer.json      the tokenizer it was trained with
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path, read_json, sha256_file, write_json
from pipeline.tokenization.tokenizer import Tokenizer

WEIGHTS, CONFIG, TOKENIZER_FILE = "model.safetensors", "config.json", "tokenizer.json"


def named_weights(module: nn.Module, *, frozen: bool = True) -> dict[str, Tensor]:
    """The parameters by name on the CPU, contiguous; a shared tensor appears once. Without `frozen`, of what learns."""
    kept = {name: parameter for name, parameter in module.named_parameters() if frozen or parameter.requires_grad}
    return {name: parameter.detach().cpu().contiguous() for name, parameter in kept.items()}


def load_weights(module: nn.Module, weights: dict[str, Tensor], *, frozen: bool = True) -> None:
    """Copy `weights` into `module`; without `frozen`, only those of parameters that are not frozen are there.

    Raises:
        HallmarkError: names and shapes are not the module's own.
    """
    own = {name: parameter for name, parameter in module.named_parameters() if frozen or parameter.requires_grad}
    missing, spare = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    misshaped = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or spare or misshaped:
        raise HallmarkError(
            f"the weights do not fit this model: missing {missing or 'none'}, unknown {spare or 'none'}, "
            f"of another shape {sorted(misshaped) or 'none'}",
            where=WEIGHTS,
        )
    for name, parameter in own.items():
        parameter.data.copy_(weights[name])


def save_checkpoint_folder(
    folder: Path | str, weights: dict[str, Tensor], config: dict[str, Any], tokenizer: Tokenizer
) -> None:
    """Write the folder's three files, `config.json` last, so that a torn folder has none."""
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(dict(sorted(weights.items())), temporary)
    tokenizer.save(folder)
    hashes = {"tokenizer_hash": tokenizer.hash, "weights_sha256": sha256_file(folder / WEIGHTS)}
    write_json(folder / CONFIG, {**config, **hashes})


def read_config(folder: Path | str) -> dict[str, Any]:
    try:
        return read_json(Path(folder) / CONFIG)
    except FileNotFoundError:
        raise HallmarkError("this folder holds no trained model", where=str(folder), fix="dvc repro") from None


def read_weights(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Read what `save_checkpoint_folder` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that `config.json` was written with.
    """
    folder = Path(folder)
    config = read_config(folder)
    found = sha256_file(folder / WEIGHTS)
    if found != config["weights_sha256"]:
        raise HallmarkError(
            f"these weights were changed after training: sha256 {found[:12]}, config.json has "
            f"{config['weights_sha256'][:12]}",
            where=str(folder / WEIGHTS),
            fix="dvc checkout --force " + str(folder),
        )
    tokenizer = read_tokenizer(folder, config)
    try:
        return load_file(folder / WEIGHTS), config, tokenizer
    except SafetensorError as error:
        raise HallmarkError(f"this is not a safetensors file: {error}", where=str(folder / WEIGHTS)) from error


def read_tokenizer(folder: Path | str, config: dict[str, Any]) -> Tokenizer:
    """The folder's tokenizer; one that does not belong to its checkpoint is refused, naming both."""
    tokenizer = Tokenizer.load(folder)
    if tokenizer.hash != config["tokenizer_hash"]:
        raise HallmarkError(
            f"the tokenizer {tokenizer.hash[:12]} does not belong to this checkpoint, which was trained with "
            f"{config['tokenizer_hash'][:12]}",
            where=str(Path(folder) / TOKENIZER_FILE),
            fix="dvc checkout --force " + str(folder),
        )
    return tokenizer
