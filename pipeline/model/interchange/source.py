"""A published model's folder, found and read: config.json, safetensors, tokenizer.json. Nothing is unpickled."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.files import read_json, sha256_file
from pipeline.model.weights import CONFIG, TOKENIZER_FILE, WEIGHTS

SCHEME = "hf:"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
WHERE = "params.yaml: model.init_from"


@dataclass(frozen=True)
class Published:
    """What a published folder holds.

    Attributes:
        settings: of config.json.
        weights: its tensors by name.
        tokenizer: the bytes of tokenizer.json.
        sha256: of each file that was read.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer: bytes
    sha256: dict[str, str]


def find_published(source: str) -> Path:
    """The folder of `hf:FOLDER`, or of `hf:NAME` on the hub, which is downloaded once.

    Raises:
        HallmarkError: it is neither, or the hub does not answer.
    """
    name = source.removeprefix(SCHEME)
    if name == source:
        schemes = ["hf:FOLDER", "hf:NAME", "hallmark:NAME@ALIAS", "hallmark:RUN", "hallmark:FOLDER"]
        raise HallmarkError(f"{source!r} has no scheme; {allowed(schemes)}", where=WHERE)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_NAME.fullmatch(name):
        raise HallmarkError(f"there is no folder {name}", where=WHERE, fix="name a folder, or a model of the hub")
    return _download(name)


def _download(name: str) -> Path:
    """Ask the hub, although this process is told to stay offline: here the user named it."""
    from huggingface_hub import constants, snapshot_download

    wanted = [CONFIG, WEIGHTS, INDEX, "model-*.safetensors", TOKENIZER_FILE]
    offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise HallmarkError(
            f"there is no folder {name}, and the hub does not give it: {str(error).splitlines()[0]}",
            where=WHERE,
            fix="check the name and the network, or download the model and name its folder",
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def read_published(folder: Path) -> Published:
    """Read a published model.

    Raises:
        HallmarkError: a file is missing or no safetensors; a checkpoint that is only a pickle is refused with the way
            to convert it. All problems of the folder at once.
    """
    problems = Problems(str(folder))
    if not (folder / CONFIG).exists():
        problems.add(f"there is no {CONFIG}")
    settings = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    files = _weight_files(folder, settings, problems)
    if not (folder / TOKENIZER_FILE).exists():
        problems.add(
            f"there is no {TOKENIZER_FILE}; where transformers is installed, this writes it:\n"
            f"      {_convert('AutoTokenizer', folder)}"
        )
    problems.raise_if_any()
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _read_tensors(file)
    read = (folder / CONFIG, *files, folder / TOKENIZER_FILE)
    return Published(
        settings, weights, (folder / TOKENIZER_FILE).read_bytes(), {path.name: sha256_file(path) for path in read}
    )


def _weight_files(folder: Path, settings: dict[str, Any], problems: Problems) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        files = [folder / name for name in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]
        for file in files:
            if not file.exists():
                problems.add(f"there is no {file.name}, which {INDEX} names")
        return files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        model_class = (settings.get("architectures") or ["AutoModel"])[0]
        problems.add(
            f"{', '.join(pickles)}: a pickle can run any program when it is read, so it is not read here; if you "
            f"trust it, convert it where transformers is installed:\n      {_convert(model_class, folder)}"
        )
    else:
        problems.add(f"there is no {WEIGHTS} and no {INDEX}")
    return []


def _convert(loader: str, folder: Path) -> str:
    return (
        f'python -c "from transformers import {loader} as It; '
        f"It.from_pretrained('{folder.as_posix()}').save_pretrained('{folder.as_posix()}')\""
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise HallmarkError(f"this is not a safetensors file: {error}", where=str(path)) from error
