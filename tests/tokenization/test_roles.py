import pytest

from pipeline.tokenization.roles import SPECIAL_TOKENS, find_roles, is_ours

PUBLISHED = {  # names as the published models have them, and the names of the roles that are to be found
    "gpt2": (["<|endoftext|>"], {"pad": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"}),
    "bert": (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "mask": "[MASK]", "unk": "[UNK]"},
    ),
    "roberta": (
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "sep": "</s>", "mask": "<mask>", "unk": "<unk>"},
    ),
    "llama-2": (
        ["<unk>", "<s>", "</s>"],
        {"pad": "</s>", "bos": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"},
    ),
    "llama-3": (
        ["<|begin_of_text|>", "<|end_of_text|>"],
        {"pad": "<|end_of_text|>", "bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
    ),
    "qwen3": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        {"pad": "<|im_end|>", "bos": "<|endoftext|>", "eos": "<|im_end|>"},
    ),
    "t5": (
        ["<pad>", "</s>", "<unk>"],
        {"pad": "<pad>", "bos": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>"},
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_roles_of_published_models(model: str) -> None:
    names, expected = PUBLISHED[model]
    vocabulary = {name: 7 + place for place, name in enumerate(["word", *names])}
    roles = find_roles(vocabulary)
    found = {role: getattr(roles, role) for role in ("pad", "bos", "eos", "sep", "mask", "unk")}
    assert found == {role: vocabulary.get(expected.get(role, "")) for role in found}
    assert roles.sentinels == ()
    assert not is_ours(vocabulary)


def test_sentinels_come_in_the_order_of_their_numbers() -> None:
    vocabulary = {f"<extra_id_{number}>": 199 - number for number in range(100)} | {"</s>": 1, "<extra_id_x>": 2}
    assert find_roles(vocabulary).sentinels == tuple(range(199, 99, -1))


def test_our_own_are_recognised() -> None:
    ours = {name: place for place, name in enumerate(SPECIAL_TOKENS)}
    assert is_ours(ours)
    assert find_roles(ours).sentinels == tuple(range(5, 37))
    assert not is_ours({name: place + 1 for name, place in ours.items()})
