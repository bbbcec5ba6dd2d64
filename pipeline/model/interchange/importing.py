"""A published model as a folder of our own, and pretraining's start from it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.common.errors import HallmarkError, Problems
from pipeline.common.params import Model
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.interchange.renaming import from_published
from pipeline.model.interchange.settings import read_settings
from pipeline.model.interchange.source import find_published, read_published
from pipeline.model.transformer import Transformer
from pipeline.model.weights import (
    CONFIG,
    TOKENIZER_FILE,
    load_weights,
    read_config,
    read_weights,
    save_checkpoint_folder,
)
from pipeline.tokenization.tokenizer import Tokenizer

POSITION_TABLE = "embedding.positions.weight"
TRAINED_WITH = ("dropout", "attention_dropout")  # settings of pretraining, not of the imported network
NOT_SETTABLE = ("preset", "depth", "init_from", "context_length", *TRAINED_WITH)


def import_model(source: str, folder: Path | str) -> dict[str, Any]:
    """Read a published model and write it as a folder of our own, see `pipeline.model.weights`.

    Args:
        source: `hf:FOLDER` or `hf:NAME`.
        folder: where it goes.

    Returns:
        What config.json says under "import": the source, its architecture, the sha256 of each file that was read,
        parts that are missing, and names that were left behind.

    Raises:
        HallmarkError: it cannot be read, or has parts that are not here.
    """
    found = find_published(source)
    published = read_published(found)
    tokenizer = Tokenizer(published.tokenizer, str(found / TOKENIZER_FILE))
    model_type, config = read_settings(published.settings, str(found / CONFIG))
    pad_id = published.settings.get("pad_token_id")
    renamed = from_published(model_type, config, published.weights, str(found), pad_id)
    if tokenizer.vocab_size > config.vocab_size:
        raise HallmarkError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model a table of {config.vocab_size}",
            where=str(found),
            fix="these two do not belong together: fetch the model again",
        )
    told = {
        "source": source,
        "model_type": model_type,
        "files": published.sha256,
        "missing": list(renamed.missing),
        "left_behind": list(renamed.left_behind),
    }
    save_checkpoint_folder(folder, renamed.weights, {"model": renamed.config.to_dict(), "import": told}, tokenizer)
    return told


def starting_model(
    settings: Model, folder: Path | str, vocab_size: int, *, pair_head: bool
) -> tuple[Transformer, dict[str, str]]:
    """What pretraining starts from: the imported model where `init_from` names one, else random weights.

    Args:
        settings: of the network.
        folder: what the stage `import` wrote.
        vocab_size: of the tokenizer; an imported model has its own table.
        pair_head: the objective predicts next sentences, too.

    Returns:
        The model, and what was derived or decided, to be printed and recorded.
    """
    if settings.init_from is None:
        config, derived = derive_config(settings, vocab_size, pair_head=pair_head)
        return Transformer(config), derived
    config, decided = imported_config(folder, settings, pair_head=pair_head)
    model = Transformer(config)
    load_imported(model, folder)
    return model, decided


def imported_config(folder: Path | str, settings: Model, *, pair_head: bool) -> tuple[ModelConfig, dict[str, str]]:
    """The configuration to go on with from an imported model, as `derive_config` gives one from settings alone.

    Args:
        folder: what `import_model` wrote.
        settings: `context_length` may shorten what the model sees, dropout is taken, and parts that are set have to be
            the imported ones; `preset` and `depth` are not read.
        pair_head: the objective predicts next sentences, too.

    Returns:
        The configuration, and what was decided, to be printed and recorded.

    Raises:
        HallmarkError: settings contradict the imported model, all of them at once.
    """
    described = read_config(folder)
    found, told = ModelConfig.from_dict(described["model"]), described["import"]
    problems = Problems("params.yaml: model")
    for name in type(settings).model_fields:
        wanted = getattr(settings, name)
        if name not in NOT_SETTABLE and wanted is not None and wanted != _shown(found, name):
            problems.add(f"{name}: {wanted}; {settings.init_from} has {_shown(found, name)}")
    if settings.context_length > found.context_length:
        problems.add(f"context_length: {settings.context_length}; {settings.init_from} has {found.context_length}")
    problems.raise_if_any(fix="set these keys to null, or (context_length) to what it has")
    decided = {
        "init_from": f"{told['source']} ({told['model_type']}); model.preset and model.depth are not read",
        "context_length": f"{settings.context_length} of its {found.context_length} (set)",
    }
    random = [*told["missing"], *(["pair_head"] if pair_head and not found.pair_head else [])]
    if random:
        decided["starts_at_random"] = ", ".join(random)
    if found.pair_head and not pair_head:
        decided["left_behind"] = "pair_head: only the objective mlm+nsp needs it"
    chosen = {name: getattr(settings, name) for name in TRAINED_WITH}
    return replace(found, context_length=settings.context_length, pair_head=pair_head, **chosen), decided


def _shown(config: ModelConfig, name: str) -> Any:
    shown = config.kv_heads if name == "num_kv_heads" else getattr(config, name)
    return list(shown) if isinstance(shown, tuple) else shown


def load_imported(model: Transformer, folder: Path | str) -> None:
    """Copy the imported weights into a model of `imported_config`; heads that were missing stay as they are."""
    weights, _, _ = read_weights(folder)
    own = {name: parameter.data for name, parameter in model.named_parameters()}
    heads = {name: value for name, value in own.items() if name.startswith(("lm_head.", "pair_head."))}
    taken = heads | {name: value for name, value in weights.items() if name in own}
    if POSITION_TABLE in taken:
        taken[POSITION_TABLE] = taken[POSITION_TABLE][: model.config.context_length]
    load_weights(model, taken)
