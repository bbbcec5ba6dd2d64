"""What pretraining learns to predict, one objective for each: its rows, its loss and its measure.

    causal            each token from those before it (Radford et al. 2019)
    prefix-lm         the rest of a text from its beginning, whose tokens see one another (Raffel et al. 2020)
    mlm               hidden tokens from those around them (Devlin et al. 2019; Liu et al. 2019)
    mlm+nsp           the same in pairs of texts, and whether the second goes on where the first ends
    span-corruption   the gaps of a text (Raffel et al. 2020)

All losses are sums over valid targets, with their number; the loop divides once, by all of the global batch.
Legend: B rows, T positions, M masked positions, D hidden size, V vocabulary, N targets.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.params import Pretrain
from pipeline.model.accounting import body_flops_per_token, head_flops_per_token, stack_flops_per_token
from pipeline.model.config import ModelConfig
from pipeline.model.norms import widen
from pipeline.model.transformer import LanguageHead, Transformer
from pipeline.tokenization.shards import TokenShard
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.training.cross_entropy import PART, in_even_parts, part_gradients, summed_nats
from pipeline.training.distributed import Ranks
from pipeline.training.loop import Batch, steady_sum
from pipeline.training.masking import NO_TARGET, Masking, SentencePairs
from pipeline.training.mixture import Mixture
from pipeline.training.packing import PackedMasking, PackedSuccessors, packed_documents
from pipeline.training.runtime import Runtime
from pipeline.training.sharding import is_sharded
from pipeline.training.spans import SpanCorruption
from pipeline.training.windows import (
    MakeRow,
    PlanEpoch,
    Windows,
    document_windows,
    fixed_windows,
    of_tokens,
    validation_batches,
)

OBJECTIVES = {  # family -> what it can learn; the first is its own
    "decoder": ("causal", "prefix-lm"),
    "encoder": ("mlm", "mlm+nsp"),
    "encoder-decoder": ("span-corruption",),
}
PACKABLE = ("causal", "prefix-lm", "mlm")  # what pretrain.packing `documents` goes with
LEAST_PAIR = 8  # tokens of a text that is cut into a pair


def choose_objective(name: str | None, family: str) -> str:
    """The objective of params.yaml, or the family's own. Raises HallmarkError if this family cannot learn it."""
    if name is not None and name not in OBJECTIVES[family]:
        fitting = [other for other, names in OBJECTIVES.items() if name in names]
        raise HallmarkError(
            f"a model of the family {family} does not learn {name!r}; {allowed(OBJECTIVES[family])}",
            where="params.yaml: objective",
            fix=f"change it, or take a preset of the family {' or '.join(fitting)}",
        )
    return name or OBJECTIVES[family][0]


def choose_packing(packing: str | None, objective: str) -> str:
    """The packing of params.yaml, or documents where the objective goes with it."""
    return packing or ("documents" if objective in PACKABLE else "stream")


@dataclass(frozen=True)
class Objective:
    """One objective on one tokenizer and context length.

    Attributes:
        name: as in params.yaml.
        row_length: source positions of a row, T.
        target_share: targets that the head is computed for, per source position.
        plan: makes the windows of a text.
        make_row: makes a row of the pieces of a window, given the text that it is of.
        source_weights: how often the documents of each source come in training.
    """

    name: str
    row_length: int
    target_share: float
    plan: Callable[[Mixture], PlanEpoch]
    make_row: Callable[[Mixture], MakeRow]
    source_weights: Mapping[str, float]

    def batches(self, shard: TokenShard, batch_tokens: int, micro_batch_tokens: int | None, seed: int) -> Windows:
        """Endless global batches of about `batch_tokens` source tokens: rounded down to whole rows, at least one."""
        rows = max(1, batch_tokens // self.row_length)
        micro = max(1, (micro_batch_tokens or batch_tokens) // self.row_length)
        mixture = Mixture(shard, self.source_weights, seed)
        return Windows(self.plan(mixture), self.make_row(mixture), rows, micro, seed, mixture)

    def validation(self, shard: TokenShard, rows: int, most_tokens: int | None = None) -> list[Batch]:
        """The same batches of a shard whenever it is asked; all of it, whatever the weights of its sources."""
        most_rows = None if most_tokens is None else max(1, most_tokens // self.row_length)
        whole = Mixture(shard)
        return validation_batches(self.plan(whole)(0, None), self.make_row(whole), rows, most_rows)

    def flops_per_token(self, config: ModelConfig) -> int:
        """Forward and backward FLOPs per source token, see `pipeline.model.accounting`."""
        target = head_flops_per_token(config)
        if config.family == "encoder-decoder":
            target += stack_flops_per_token(config, decoder=True)
        return body_flops_per_token(config) + round(self.target_share * target)


def make_objective(name: str, tokenizer: Tokenizer, context_length: int, settings: Pretrain) -> Objective:
    """The objective of this name, its rows cut as `settings.packing` says, see `choose_packing`.

    Raises:
        HallmarkError: the tokenizer lacks a mark that the objective needs, nothing fits the context, or the objective
            does not go with the packing.
    """
    length, weights = context_length, settings.source_weights
    masking = Masking(tokenizer, settings.mask_share, settings.whole_words)
    if choose_packing(settings.packing, name) == "documents":
        return _packed_objective(name, tokenizer, length, masking, weights)

    def stream(row_length: int, share: float, window: int, stride: int, make_row: MakeRow) -> Objective:
        def plan(text: Mixture) -> PlanEpoch:
            return fixed_windows(text, window, stride)

        def of_text(text: Mixture) -> MakeRow:
            return of_tokens(text.shard.tokens, make_row)

        return Objective(name, row_length, share, plan, of_text, weights)

    if name in ("causal", "prefix-lm"):
        return stream(length, 1.0, length + 1, length, successor_row if name == "causal" else prefix_row)
    if name == "span-corruption":
        spans = SpanCorruption.fit(tokenizer, length, settings.mask_share, settings.mean_span)
        share = spans.target_length / spans.source_length
        return stream(spans.source_length, share, spans.length, spans.length, spans)
    tokenizer.require("mask")
    share = masking.count(length) / length
    if name == "mlm":
        return stream(length, share, length, length, masking)
    tokenizer.require("sep")

    def cut(text: Mixture) -> PlanEpoch:
        return document_windows(text, length - 3, LEAST_PAIR)  # 3: `bos` and two `sep`

    def pairs(text: Mixture) -> MakeRow:
        tokens, others = text.shard.tokens, cut(text)(0, None).pieces_P2  # others: as often as in the first epoch
        return of_tokens(tokens, SentencePairs(tokenizer, masking, tokens, others, length))

    return Objective(name, length, share, cut, pairs, weights)


def _packed_objective(
    name: str, tokenizer: Tokenizer, length: int, masking: Masking, weights: Mapping[str, float]
) -> Objective:
    """Rows of whole documents, see `pipeline.training.packing`."""
    if name not in PACKABLE:
        raise HallmarkError(
            f"the packing documents does not go with the objective {name!r}; {allowed(PACKABLE)}",
            where="params.yaml: pretrain.packing",
            fix="set it to stream",
        )

    def plan(text: Mixture) -> PlanEpoch:
        return packed_documents(text, length)

    if name == "mlm":
        tokenizer.require("mask")
        share = masking.count(length) / length
        return Objective(
            name, length, share, plan, lambda text: PackedMasking(text.shard.tokens, masking, length), weights
        )
    row, ends = successor_row if name == "causal" else prefix_row, (tokenizer.pad_id, tokenizer.bos_id)
    return Objective(
        name, length, 1.0, plan, lambda text: PackedSuccessors(text.shard.tokens, row, length, *ends), weights
    )


def successor_row(ids: np.ndarray, _generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input_ids": ids[:-1], "labels": ids[1:]}


def prefix_row(ids: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A prefix of random length, of which nothing is predicted; the last token always is."""
    prefix = int(generator.integers(1, max(2, len(ids) - 1)))
    labels_T = ids[1:].copy()
    labels_T[: prefix - 1] = NO_TARGET
    return {"input_ids": ids[:-1], "labels": labels_T, "prefix": np.array([prefix], dtype=np.int64)}


def states_and_labels(model: Transformer, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """The states that the head reads, x_BTD or x_BMD; their labels; and logits_B2 of the pairs, if there are any."""
    ids_BT, labels = batch["input_ids"], batch["labels"]
    if "target_ids" in batch:
        return model.decode(batch["target_ids"], model.encode(ids_BT)), labels, None
    x_BTD = model.hidden_states(
        ids_BT,
        batch.get("attention_mask"),
        segments_BT=batch.get("segments"),
        prefix_BS=batch.get("prefix"),
        documents_BT=batch.get("documents"),
    )
    if "masked_positions" not in batch:
        return x_BTD, labels, None
    x_BMD = x_BTD.gather(1, batch["masked_positions"][..., None].expand(-1, -1, x_BTD.size(-1)))
    pairs_B2 = widen(model.pair_head(x_BTD)) if model.pair_head is not None and "goes_on" in batch else None
    return x_BMD, labels, pairs_B2


def split_targets(x: Tensor, labels: Tensor, size: int | None) -> list[tuple[Tensor, Tensor]]:
    """States and labels in parts of at most `size` targets (None: PART), x_ND and labels_N."""
    x_ND, labels_N = x.flatten(0, -2), labels.flatten()
    size = size or PART[x.device.type]
    return list(zip(in_even_parts(x_ND, size), in_even_parts(labels_N, size), strict=True))


class PretrainingLoss:
    """The summed loss of a batch in nats, and the number of its targets.

    With pairs, each pair weighs as much as a row's masked tokens together: where every row has M of them this is BERT's
    sum of the two means.

    Args:
        runtime: compiles what is done for each part of the targets.
        logit_tokens: the logits of so many targets are held at once; None: PART.
    """

    def __init__(self, runtime: Runtime, logit_tokens: int | None = None) -> None:
        self.gradients, self.by_amx = runtime.compiled(part_gradients), runtime.uses_amx
        self.logit_tokens = logit_tokens

    def __call__(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        x, labels, pairs_B2 = states_and_labels(model, batch)
        head: LanguageHead = model.lm_head
        x_ND = head.features(x).flatten(0, -2)
        of_head = (head.weight, head.bias, labels.flatten())
        nats = summed_nats(x_ND, *of_head, self.logit_tokens, self.gradients, by_amx=self.by_amx)
        if pairs_B2 is not None:
            nats = nats + labels.size(1) * cross_entropy(pairs_B2, batch["goes_on"], reduction="sum")
        return nats, (labels != NO_TARGET).sum()


class Validation:
    """Loss per target, the share of targets predicted exactly, and for a causal model bits per byte.

    Bits per byte is the summed cross-entropy of the targets that stand for text, in bits, over the bytes that
    they stand for; special tokens stand for none. It is comparable across vocabularies. Each window is predicted on its
    own, without what came before. With a tokenizer that loses something (lower case, spaces, unknown characters)
    there is no such figure: what is lost need not be predicted, and the model would look better than it is.

    Args:
        objective: makes the batches.
        shard: the validation tokens.
        tokenizer: of the shard.
        rows: per forward pass.
        device: where the model is.
        most_tokens: measure on about so many; None measures all.
        ranks: that measure together, each its share of the batches; None: this process alone.
        logit_tokens: the logits of so many targets are held at once; None: PART.
    """

    def __init__(
        self,
        objective: Objective,
        shard: TokenShard,
        tokenizer: Tokenizer,
        rows: int,
        device: torch.device,
        most_tokens: int | None = None,
        ranks: Ranks | None = None,
        logit_tokens: int | None = None,
    ) -> None:
        self.ranks, self.logit_tokens = ranks or Ranks(), logit_tokens
        batches = objective.validation(shard, rows, most_tokens)
        self.batches = batches[self.ranks.rank :: self.ranks.size]
        self.idle = batches[:1] if len(self.batches) * self.ranks.size < len(batches) else []
        self.device = device
        self.target_bytes: Tensor | None = None  # float64 (V,): the bytes of text that each token stands for
        if objective.name == "causal" and tokenizer.is_lossless:
            self.target_bytes = torch.from_numpy(tokenizer.token_bytes.astype(np.float64)).to(device)

    def __call__(self, model: Transformer) -> dict[str, float]:
        """{"loss", "accuracy"}; of pairs "pair_accuracy", and of a causal model, if its tokenizer loses nothing,
        "bits_per_byte", too.

        Call it in eval mode, without gradients.
        """
        sums = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in SUMS}
        for batch in self.batches:
            self._add(sums, model, self._moved(batch))
        if is_sharded(model):  # its parts are gathered by all ranks together, so all go through it as often
            for batch in self.idle:
                states_and_labels(model, self._moved(batch))
        self.ranks.sum_(sums.values())
        found = {name: value.item() for name, value in sums.items()}
        measured = {"loss": found["nats"] / found["targets"], "accuracy": found["right"] / found["targets"]}
        if self.target_bytes is not None:
            measured["bits_per_byte"] = found["text_nats"] / math.log(2) / max(found["text_bytes"], 1.0)
        if found["pairs"]:
            measured["pair_accuracy"] = found["pairs_right"] / found["pairs"]
        return measured

    def _moved(self, batch: Batch) -> Batch:
        return {name: value.to(self.device) for name, value in batch.items()}

    def _add(self, sums: dict[str, Tensor], model: Transformer, batch: Mapping[str, Tensor]) -> None:
        x, labels, pairs_B2 = states_and_labels(model, batch)
        for x_ND, labels_N in split_targets(x, labels, self.logit_tokens):
            self._add_targets(sums, widen(model.logits(x_ND)), labels_N)
        if pairs_B2 is not None:
            sums["pairs"] += len(pairs_B2)
            sums["pairs_right"] += (pairs_B2.argmax(dim=1) == batch["goes_on"]).sum()

    def _add_targets(self, sums: dict[str, Tensor], logits_NV: Tensor, labels_N: Tensor) -> None:
        valid_N = labels_N != NO_TARGET
        nats_N = cross_entropy(logits_NV, labels_N, ignore_index=NO_TARGET, reduction="none").double()
        sums["nats"] += steady_sum(nats_N)
        sums["targets"] += valid_N.sum()
        sums["right"] += ((logits_NV.argmax(dim=-1) == labels_N) & valid_N).sum()
        if self.target_bytes is not None:
            bytes_N = self.target_bytes[labels_N.clamp(min=0)] * valid_N
            sums["text_nats"] += steady_sum(nats_N[bytes_N > 0])
            sums["text_bytes"] += bytes_N.sum()


SUMS = ("nats", "targets", "right", "text_nats", "text_bytes", "pairs", "pairs_right")
