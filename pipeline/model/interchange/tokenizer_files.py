"""Our tokenizer as the files that other tools read: tokenizer.json and tokenizer_config.json."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import processors

from pipeline.model.config import ModelConfig
from pipeline.tokenization.tokenizer import Tokenizer

TEMPLATES = {  # what stands around a text, as the models here were trained; the second is for pairs of texts
    "classifier": ("bos $A", "bos $A sep $B:1"),
    "decoder": ("bos $A", None),
    "encoder": ("bos $A", None),
    "encoder with pairs": ("bos $A sep", "bos $A sep $B:1 sep:1"),
    "encoder-decoder": ("$A eos", None),
}


def tokenizer_files(
    tokenizer: Tokenizer, content: bytes, config: ModelConfig, *, max_tokens: int, classifier: bool
) -> dict[str, bytes]:
    """The bytes of each file by name.

    The tokenizer.json of a published language model stays as it is, to the byte. One that was learned here, or whose
    model became a classifier, says which special tokens stand around a text, as in training.

    Args:
        tokenizer: its contract: special tokens by role.
        content: the bytes of its tokenizer.json.
        config: of the model.
        max_tokens: the longest text, special tokens included.
        classifier: the model labels texts; names of special tokens in a text are then read as plain text, as here.
    """
    inner = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    roles = {
        "pad": tokenizer.pad_id,
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "sep": tokenizer.separator_id if classifier else tokenizer.sep_id,
        "mask": tokenizer.mask_id,
        "unk": tokenizer.unk_id,
    }
    names = {role: str(inner.id_to_token(place)) for role, place in roles.items() if place is not None}
    if classifier or inner.post_processor is None:
        kind = "classifier" if classifier else config.family + (" with pairs" if config.pair_head else "")
        inner.post_processor = _template(TEMPLATES[kind], names, roles)
        content = (inner.to_str(pretty=True) + "\n").encode()
    described: dict[str, Any] = {f"{role}_token": name for role, name in names.items()}
    if config.family == "encoder":
        described["cls_token"] = names["bos"]
    described |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        # A decoder goes on at the right end of a text, so what fills a batch stands on the left.
        "padding_side": "left" if config.family == "decoder" and not classifier else "right",
        "split_special_tokens": classifier,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if config.segments else []), "attention_mask"],
    }
    return {"tokenizer.json": content, "tokenizer_config.json": to_json(described)}


def _template(
    template: tuple[str, str | None], names: Mapping[str, str], roles: Mapping[str, int | None]
) -> processors.PostProcessor:
    single, pair = (_with_names(part, names) for part in template)
    used = [(name, roles[role]) for role, name in names.items() if role in str(template)]
    return processors.TemplateProcessing(single=single, pair=pair or "$A $B:1", special_tokens=used)


def _with_names(template: str | None, names: Mapping[str, str]) -> str | None:
    if template is None:
        return None
    parts = []
    for part in template.split():
        role, mark, segment = part.partition(":")
        parts.append(names.get(role, role) + mark + segment)
    return " ".join(parts)


def to_json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
