"""Published models in and ours out: logits at every position, bits after a round trip, ids of a multilingual sample."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tokenizers
import torch
import transformers
from torch import Tensor

from pipeline.common.params import Model
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.interchange.exporting import export_model
from pipeline.model.interchange.importing import import_model
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights, named_weights, read_weights, save_checkpoint_folder
from pipeline.tokenization.training import train_tokenizer
from tests.model.published import CONTEXT, KINDS, SAMPLE, auto_tokenizer, publish

LENGTH, SHORTER, TARGET = 150, 100, 140  # longer than where T5's buckets become logarithmic
TOLERANCE = 1e-4
# preset -> (objective's pair head, class that has to load it)
PRESETS = {
    "gpt2": (False, "GPT2LMHeadModel"),
    "llama": (False, "LlamaForCausalLM"),
    "qwen3": (False, "Qwen3ForCausalLM"),
    "bert": (False, "BertForMaskedLM"),
    "bert with pairs": (True, "BertForPreTraining"),
    "roberta": (False, "RobertaForMaskedLM"),
    "t5": (False, "T5ForConditionalGeneration"),
}


class Imported(NamedTuple):
    """A published model, its folder, the folder that it was imported to, and that one's export."""

    theirs: Any
    published: Path
    folder: Path
    exported: Path


@pytest.fixture(scope="module", params=KINDS)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    root = tmp_path_factory.mktemp("interchange")
    theirs = publish(request.param, root / "published")
    import_model(f"hf:{root / 'published'}", root / "ours")
    export_model(root / "ours", root / "exported")
    return Imported(theirs, root / "published", root / "ours", root / "exported")


def load_ours(folder: Path) -> tuple[Transformer, int]:
    weights, described, tokenizer = read_weights(folder)
    model = Transformer(ModelConfig.from_dict(described["model"])).eval()
    load_weights(model, weights)
    return model, tokenizer.pad_id


def load_theirs(folder: Path, name: str) -> Any:
    """The model by a class of `transformers`, which has to miss no weight and to leave none over."""
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@torch.no_grad()
def both_logits(ours: Transformer, theirs: Any, pad_id: int) -> tuple[Tensor, Tensor]:
    """Logits of a padded batch at every position that is no padding, by ours and by theirs, (N, V)."""
    generator = torch.Generator().manual_seed(7)
    high = ours.config.vocab_size
    ids_BT = torch.randint(pad_id + 1, high, (2, LENGTH), generator=generator)
    visible_BT = torch.ones(2, LENGTH, dtype=torch.bool)
    visible_BT[1, SHORTER:] = False
    ids_BT[1, SHORTER:] = pad_id
    if ours.config.family == "encoder-decoder":
        target_BT = torch.randint(pad_id + 1, high, (2, TARGET), generator=generator)
        found = theirs(input_ids=ids_BT, attention_mask=visible_BT.long(), decoder_input_ids=target_BT).logits
        return ours(ids_BT, visible_BT, target_BT).flatten(0, 1), found.flatten(0, 1)
    answer = theirs(input_ids=ids_BT, attention_mask=visible_BT.long())
    found = answer.logits if "logits" in answer else answer.prediction_logits
    return ours(ids_BT, visible_BT)[visible_BT], found[visible_BT]


def assert_same_logits(ours: Transformer, theirs: Any, pad_id: int) -> None:
    ours_NV, theirs_NV = both_logits(ours, theirs, pad_id)
    difference = float((ours_NV - theirs_NV).abs().max())
    p, q = theirs_NV.double().log_softmax(-1), ours_NV.double().log_softmax(-1)
    divergence = float((p.exp() * (p - q)).sum(-1).mean())
    assert difference < TOLERANCE, f"largest difference of a logit {difference:.1e}, mean KL {divergence:.1e} nats"
    assert float(theirs_NV.std()) > 0.05, "logits that hardly differ prove nothing"


def test_an_imported_model_gives_the_logits_of_the_published_one(imported: Imported) -> None:
    ours, pad_id = load_ours(imported.folder)
    assert_same_logits(ours, imported.theirs, pad_id)


def test_bert_s_pair_head_comes_along(tmp_path: Path) -> None:
    theirs = publish("bert", tmp_path / "published")
    told = import_model(f"hf:{tmp_path / 'published'}", tmp_path / "ours")
    assert (told["missing"], told["left_behind"]) == ([], [])
    ours, _ = load_ours(tmp_path / "ours")
    ids_BT = torch.arange(5, 45).view(2, 20)
    segments_BT = (torch.arange(20) > 8).long().expand(2, -1)
    with torch.no_grad():
        expected = theirs(input_ids=ids_BT, token_type_ids=segments_BT).seq_relationship_logits
        assert ours.pair_head is not None
        found = ours.pair_head(ours.hidden_states(ids_BT, segments_BT=segments_BT))
    torch.testing.assert_close(found, expected.flip(1), atol=TOLERANCE, rtol=0)  # its class 0 goes on, as our class 1


def test_an_export_gives_the_logits_and_an_import_of_it_the_bits(imported: Imported, tmp_path: Path) -> None:
    weights, described, tokenizer = read_weights(imported.folder)
    theirs = load_theirs(imported.exported, type(imported.theirs).__name__)
    ours, pad_id = load_ours(imported.folder)
    assert_same_logits(ours, theirs, pad_id)
    import_model(f"hf:{imported.exported}", tmp_path / "again")
    again, described_again, tokenizer_again = read_weights(tmp_path / "again")
    assert described_again["model"] == described["model"]
    assert tokenizer_again.hash == tokenizer.hash
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_the_tokenizer_gives_the_same_ids_everywhere(imported: Imported) -> None:
    _, _, ours = read_weights(imported.folder)
    published = tokenizers.Tokenizer.from_file(str(imported.published / "tokenizer.json"))
    exported = auto_tokenizer(imported.exported)
    for text in SAMPLE:
        expected = published.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected
        assert exported(text, add_special_tokens=False)["input_ids"] == expected
        assert exported(text)["input_ids"] == published.encode(text).ids  # special tokens stand where they stood
    assert exported.pad_token_id == ours.pad_id
    assert exported.mask_token_id == ours.mask_id
    assert exported.model_max_length == ours_context(imported)


def ours_context(imported: Imported) -> int:
    context: int = read_weights(imported.folder)[1]["model"]["context_length"]
    assert context == (512 if imported.theirs.config.model_type == "t5" else CONTEXT)
    return context


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_that_was_published_exports(name: str, tmp_path: Path) -> None:
    pair_head, model_class = PRESETS[name]
    kind = "wordpiece" if "bert" in name else "bpe"
    tokenizer = train_tokenizer(SAMPLE * 4, kind, 330)
    settings = Model.model_validate(
        {"preset": name.split()[0], "depth": 2, "hidden_size": 32, "num_heads": 4, "context_length": CONTEXT}
    )
    config, _ = derive_config(settings, tokenizer.vocab_size, pair_head=pair_head)
    torch.manual_seed(5)
    ours = Transformer(config).eval()
    for parameter in ours.parameters():  # blocks start as identity, norms as one
        parameter.data += 0.15 * torch.randn_like(parameter)
    save_checkpoint_folder(tmp_path / "ours", named_weights(ours), {"model": config.to_dict()}, tokenizer)
    export, is_new = export_model(tmp_path / "ours", tmp_path / "exported")
    assert (export.model_class, is_new) == (model_class, True)
    assert_same_logits(ours, load_theirs(tmp_path / "exported", model_class), tokenizer.pad_id)

    import_model(f"hf:{tmp_path / 'exported'}", tmp_path / "again")
    weights, described, read_back = read_weights(tmp_path / "again")
    again = ModelConfig.from_dict(described["model"])
    assert replace(again, num_kv_heads=None, head_size=None, num_decoder_layers=None) == config
    assert all(torch.equal(weights[name], value) for name, value in named_weights(ours).items())
    exported = auto_tokenizer(tmp_path / "exported")
    for text in SAMPLE:
        assert read_back.encode(text) == tokenizer.encode(text)
        assert exported(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    first = {"encoder-decoder": []}.get(config.family, [tokenizer.bos_id])
    last = {"encoder-decoder": [tokenizer.eos_id]}.get(config.family, [tokenizer.sep_id] if pair_head else [])
    assert exported("one text")["input_ids"] == [*first, *tokenizer.encode("one text"), *last]
