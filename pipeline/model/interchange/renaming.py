"""Weights under published names to ours and back. Values stay what they are, to the bit.

RoBERTa alone loses something: the vector of its only kind of segment is added to the positions' at import.
Legend: D hidden size, T positions.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.common.errors import Problems, allowed
from pipeline.model.config import ModelConfig
from pipeline.model.interchange.architectures import ARCHITECTURES, Architecture
from pipeline.model.interchange.settings import writes_copied_head
from pipeline.model.transformer import Transformer

# What files hold beside weights: masks, positions, frequencies, and in the first T5s a table that nothing reads.
BUFFERS = re.compile(
    r"\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$|position_ids$|EncDecAttention\.relative_attention_bias\.weight$"
)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
TASK_HEADS = re.compile(
    r"^(score|classifier|pre_classifier|qa_outputs|classification_head|cls\.seq_rel\w+)\.|\.pooler\."
)
SEGMENT = "embeddings.token_type_embeddings.weight"
HEAD, EMBEDDING = "lm_head.weight", "embedding.tokens.weight"


@dataclass(frozen=True)
class Renamed:
    """What was found in a published checkpoint.

    Attributes:
        config: with what only the weights tell: tied embeddings and the pair head.
        weights: float32, by our names.
        missing: our parts that the checkpoint lacks: `lm_head`, or its matrix.
        left_behind: their names of heads that have no place here, such as another task's.
    """

    config: ModelConfig
    weights: dict[str, Tensor]
    missing: tuple[str, ...]
    left_behind: tuple[str, ...]


def weight_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """The shapes of a network's parameters by name, without making it; a shared one appears once."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in Transformer(config).named_parameters()}


def from_published(
    model_type: str, config: ModelConfig, published: Mapping[str, Tensor], where: str, pad_id: int | None = None
) -> Renamed:
    """Rename, turn round and take apart the weights of a published checkpoint.

    Args:
        model_type: its architecture.
        config: what `read_settings` read.
        published: its tensors by name.
        where: names the file in messages.
        pad_id: its pad_token_id, which RoBERTa counts positions from.

    Raises:
        HallmarkError: all weights that are missing, left over or of another shape, at once.
    """
    architecture, problems = ARCHITECTURES[model_type], Problems(where)
    found = _under_full_names(architecture, published)
    for name, value in found.items():
        if value.dtype not in FLOATS:
            problems.add(f"{name}: is quantised, of {value.dtype}; {allowed(FLOATS)}")
    problems.raise_if_any(fix="take the model as it was before it was quantised")
    found = _without_copies(architecture, found, problems)
    if architecture.positions_after_pad and pad_id is not None:
        found = _fold_segment(architecture, found, pad_id)
    config = _told_by_weights(architecture, config, found, problems)
    if config.tied_embeddings:
        found.pop(architecture.name(HEAD, config), None)
    expected = weight_shapes(config)
    weights = _take_apart(architecture, config, found, expected, problems)
    used = {architecture.name(name, config) for name in expected}
    spare = sorted(found.keys() - used)
    left_behind = tuple(name for name in spare if TASK_HEADS.search(name))
    for name in spare:
        if name not in left_behind:
            problems.add(f"{name}: left over")
    absent = [name for name in expected if name not in weights]
    missing = tuple(name for name in absent if name.startswith("lm_head."))
    problems.raise_if_any(fix="this is not a whole checkpoint of the architecture that its config.json names")
    return Renamed(config, weights, missing, left_behind)


def _under_full_names(architecture: Architecture, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of the whole model: files of a bare body leave its prefix out."""
    bare = not any(name.startswith(architecture.prefix) for name in published)
    heads = tuple(
        other.split(".")[0] + "." for other in architecture.names.values() if not other.startswith(architecture.prefix)
    )
    found = {}
    for name, value in published.items():
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        if bare and not name.startswith(heads):
            name = architecture.prefix + name
        if not BUFFERS.search(name):
            found[name] = value
    return found


def _without_copies(architecture: Architecture, found: dict[str, Tensor], problems: Problems) -> dict[str, Tensor]:
    for copy, original in architecture.copies.items():
        if copy not in found:
            continue
        if original in found and not torch.equal(found[copy], found[original]):
            problems.add(f"{copy}: differs from {original}, which it has to be a copy of")
        found.setdefault(original, found[copy])
        del found[copy]
    return found


def _fold_segment(architecture: Architecture, found: dict[str, Tensor], pad_id: int) -> dict[str, Tensor]:
    positions, segment = (architecture.prefix + name for name in ("embeddings.position_embeddings.weight", SEGMENT))
    if positions in found:
        table_TD = found[positions][pad_id + 1 :].float()
        found = found | {positions: table_TD + found[segment][0].float() if segment in found else table_TD}
    return {name: value for name, value in found.items() if name != segment}


def _told_by_weights(
    architecture: Architecture, config: ModelConfig, found: Mapping[str, Tensor], problems: Problems
) -> ModelConfig:
    if "pair_head" not in architecture.parts:
        with_pairs = replace(config, pair_head=True)
        names = [name for name in weight_shapes(with_pairs) if name.startswith("pair_head.")]
        if all(architecture.name(name, config) in found for name in names):
            config = with_pairs
    head = found.get(architecture.name(HEAD, config))
    if head is None:
        return config
    embedding = found.get(architecture.name(EMBEDDING, config))
    tied = embedding is not None and torch.equal(head, embedding)
    if config.tied_embeddings and not tied:
        name = architecture.name(HEAD, config)
        problems.add(f"{name}: differs from the embedding, although tie_word_embeddings is true")
    return replace(config, tied_embeddings=tied or config.tied_embeddings)


def _take_apart(
    architecture: Architecture,
    config: ModelConfig,
    found: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    problems: Problems,
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for theirs, ours in _grouped(architecture, config, expected).items():
        if theirs not in found:
            if not all(name.startswith("lm_head.") for name in ours):
                problems.add(f"{theirs}: missing")
            continue
        value = _turned(architecture, theirs, found[theirs])
        rows = [expected[name][0] for name in ours]
        whole = [sum(rows), *expected[ours[0]][1:]]
        if list(value.shape) != whole:
            problems.add(f"{theirs}: of shape {list(value.shape)}, not {whole} as its config.json has it")
            continue
        for name, part in zip(ours, value.split(rows), strict=True):
            weights[name] = part.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return weights


def _turned(architecture: Architecture, theirs: str, value: Tensor) -> Tensor:
    """The other way round where the two differ: from theirs to ours, and from ours to theirs."""
    if theirs.endswith(architecture.transposed):
        return value.T
    return value.flip(0) if theirs.startswith(architecture.flipped) else value


def _grouped(architecture: Architecture, config: ModelConfig, ours: Iterable[str]) -> dict[str, list[str]]:
    """Their name -> our names that it holds, in the order of the table."""
    places = {key: place for place, key in enumerate(architecture.names)}
    groups: dict[str, list[str]] = {}
    for name in sorted(ours, key=lambda name: places[architecture.key(name)]):
        groups.setdefault(architecture.name(name, config), []).append(name)
    return groups


def to_published(model_type: str, config: ModelConfig, weights: Mapping[str, Tensor], pad_id: int) -> dict[str, Tensor]:
    """Our weights under their names, put together and turned round as they have them."""
    architecture = ARCHITECTURES[model_type]
    published: dict[str, Tensor] = {}
    for theirs, ours in _grouped(architecture, config, weights).items():
        value = torch.cat([weights[name] for name in ours]) if len(ours) > 1 else weights[ours[0]]
        published[theirs] = _turned(architecture, theirs, value)
    if architecture.positions_after_pad:
        published |= _restore_positions(architecture, published, pad_id)
    if writes_copied_head(config) and any(name.startswith("decoder.") for name in weights):
        published["lm_head.weight"] = weights[EMBEDDING].clone()
    return {name: value.contiguous() for name, value in published.items()}


def _restore_positions(architecture: Architecture, published: Mapping[str, Tensor], pad_id: int) -> dict[str, Tensor]:
    positions, segment = (architecture.prefix + name for name in ("embeddings.position_embeddings.weight", SEGMENT))
    table_TD = published[positions]
    unused = table_TD.new_zeros(pad_id + 1, table_TD.size(1))
    return {positions: torch.cat((unused, table_TD)), segment: table_TD.new_zeros(1, table_TD.size(1))}
