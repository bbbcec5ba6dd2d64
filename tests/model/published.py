"""Tiny published models of every supported architecture, with random weights and tokenizers of their kinds."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SAMPLE = [
    "The quick brown fox jumps over the lazy dog, isn't it?  Twice.",
    "Übung macht den Meister: façade, naïve, Straße.",
    "模型从未见过的文字，也要能读。",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם 123 4567",
    "def f(x):\n\treturn x ** 2  # 🦊👩‍🚀 e\u0301",
    "",
    " leading and trailing ",
]
CONTEXT = 160  # long enough for T5's logarithmic buckets
SHAPE: dict[str, Any] = {"vocab_size": 0, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"intermediate_size": 48, "max_position_embeddings": CONTEXT}


def byte_level(specials: list[str], normalizer: Any = None) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SAMPLE,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, min_frequency=1, show_progress=False
        ),
    )
    return inner


def gpt2_tokenizer() -> tokenizers.Tokenizer:
    inner = byte_level(["<|endoftext|>"])
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    return inner


def qwen3_tokenizer() -> tokenizers.Tokenizer:
    inner = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC())
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    return inner


def roberta_tokenizer() -> tokenizers.Tokenizer:
    inner = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return inner


def bert_tokenizer() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(
        SAMPLE[:4], trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials, show_progress=False)
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return inner


def llama_tokenizer() -> tokenizers.Tokenizer:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("o", "v"), ("e", "r"), ("▁", "a")]
    names += ["".join(pair) for pair in merges]
    inner = tokenizers.Tokenizer(
        models.BPE({name: place for place, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    return inner


def t5_tokenizer() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    inner.train_from_iterator(
        SAMPLE * 3,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False),
    )
    inner.add_special_tokens([f"<extra_id_{number}>" for number in range(99, -1, -1)])
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return inner


# name -> (tokenizer, configuration, class, settings without the size of the vocabulary)
KINDS: dict[str, tuple[Any, str, str, dict[str, Any]]] = {
    "gpt2": (
        gpt2_tokenizer,
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "llama": (
        llama_tokenizer,
        "LlamaConfig",
        "LlamaForCausalLM",
        {**SHAPE, **WIDE, "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    ),
    "llama-tied": (
        llama_tokenizer,
        "LlamaConfig",
        "LlamaForCausalLM",
        {**SHAPE, **WIDE, "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "qwen3": (
        qwen3_tokenizer,
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {
            **SHAPE,
            **WIDE,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "bert": (bert_tokenizer, "BertConfig", "BertForPreTraining", {**SHAPE, **WIDE}),
    "bert-mlm": (bert_tokenizer, "BertConfig", "BertForMaskedLM", {**SHAPE, **WIDE}),
    "roberta": (
        roberta_tokenizer,
        "RobertaConfig",
        "RobertaForMaskedLM",
        {**SHAPE, **WIDE, "max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
    "t5": (
        t5_tokenizer,
        "T5Config",
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "t5-v1.1": (
        t5_tokenizer,
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": 1,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
        },
    ),
}


def random_model(kind: str, vocab_size: int) -> Any:
    """Weights large enough that a wrong one shows; norms near 1."""
    _, config_class, model_class, settings = KINDS[kind]
    config = getattr(transformers, config_class)(**{**settings, "vocab_size": vocab_size})
    torch.manual_seed(len(kind))
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name.lower() or ".ln_" in name
            parameter.normal_(1.0 if is_norm and name.endswith("weight") else 0.0, 0.15)
    return model


def publish(kind: str, folder: Path, **options: Any) -> Any:
    """Write a published model's folder; returns the model of `transformers`."""
    inner = KINDS[kind][0]()
    model = random_model(kind, inner.get_vocab_size() + 3)  # published tables are often larger than the vocabulary
    model.save_pretrained(folder, **options)
    inner.save(str(folder / "tokenizer.json"))
    return model


def auto_tokenizer(folder: Path) -> Any:
    """What `transformers` makes of a folder's tokenizer files."""
    return transformers.AutoTokenizer.from_pretrained(folder)
