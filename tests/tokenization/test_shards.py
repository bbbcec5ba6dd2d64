import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.tokenization import pieces as pieces_module
from pipeline.tokenization import shards
from pipeline.tokenization.shards import MANIFEST, open_shard, write_shards
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import KINDS

OTHER_HASH = "0" * 64


def sourced(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Every third document is from another source."""
    return [(text, "b" if place % 3 == 2 else "a") for place, text in enumerate(texts)]


@pytest.fixture
def folder(texts: list[str], tokenizer: Tokenizer, tmp_path: Path) -> Path:
    write_shards(tmp_path / "tokens", {"train": sourced(texts), "validation": sourced(texts[-6:])}, tokenizer)
    return tmp_path / "tokens"


def test_documents_come_back(folder: Path, texts: list[str], tokenizer: Tokenizer) -> None:
    shard = open_shard(folder, "train", tokenizer.hash)
    assert shard.tokens.dtype == np.uint16
    assert shard.offsets.dtype == np.int64
    assert shard.offsets[0] == 0
    assert shard.offsets[-1] == len(shard.tokens)
    assert shard.documents == len(texts)
    assert shard.text_bytes == sum(len(text.encode()) for text in texts)
    assert [tokenizer.decode(shard.document(place)) for place in range(len(texts))] == texts
    assert {int(shard.document(place)[0]) for place in range(len(texts))} == {tokenizer.bos_id}


def test_every_document_knows_its_source(folder: Path, texts: list[str], tokenizer: Tokenizer) -> None:
    for split, documents in (("train", texts), ("validation", texts[-6:])):
        shard = open_shard(folder, split, tokenizer.hash)
        assert shard.sources == ("a", "b")
        found = [shard.sources[source] for source in shard.document_sources]
        assert found == [source for _, source in sourced(documents)]
        tokens = {name: sum(len(shard.document(at)) for at, of in enumerate(found) if of == name) for name in "ab"}
        assert shard.tokens_by_source() == tokens
        described = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["splits"][split]
        assert described["tokens_by_source"] == tokens


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8))
def test_any_documents_come_back(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, documents: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    write_shards(folder, {"train": sourced(documents)}, tokenizer)
    shard = open_shard(folder, "train", tokenizer.hash)
    assert [tokenizer.decode(shard.document(place)) for place in range(shard.documents)] == documents


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_change_the_bytes(
    by_kind: dict[str, Tokenizer], kind: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tokenizer = tmp_path / "whole", by_kind[kind]
    write_shards(folder, {"train": sourced(texts), "validation": sourced(texts[-6:])}, tokenizer)
    shard = open_shard(folder, "train", tokenizer.hash)
    for place, text in enumerate(texts):
        assert shard.document(place).tolist() == [tokenizer.bos_id, *tokenizer.encode(text)]
    monkeypatch.setattr(shards, "CHUNK_CHARACTERS", 50)
    monkeypatch.setattr(pieces_module, "PIECE_CHARACTERS", 10)
    manifest = write_shards(
        tmp_path / "again", {"train": iter(sourced(texts)), "validation": iter(sourced(texts[-6:]))}, tokenizer
    )
    assert manifest == json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_memory_holds_one_chunk_however_much_text_comes(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr(pieces_module, "PIECE_CHARACTERS", 100)
    pulled, encoded, waiting = 0, 0, []
    encode_batch = tokenizer.encode_batch

    def texts() -> Iterator[tuple[str, str]]:
        nonlocal pulled
        for size in (10, 500, 20_000, 0, 3, 5000):
            pulled += size // 10 * 10
            yield "ten chars\n" * (size // 10), "a"

    def spy(batch: Sequence[str]) -> list[list[int]]:
        nonlocal encoded
        waiting.append(sum(map(len, batch)))
        encoded += waiting[-1]
        return encode_batch(batch)

    monkeypatch.setattr(tokenizer, "encode_batch", spy)
    write_shards(tmp_path, {"train": texts()}, tokenizer)
    assert pulled == encoded
    assert max(waiting) <= 1000 + 110


def test_large_vocabularies_take_four_bytes(texts: list[str], tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    large = Tokenizer.load(tmp_path)
    large.vocab_size = (1 << 16) + 1
    write_shards(tmp_path, {"train": sourced(texts)}, large)
    shard = open_shard(tmp_path, "train", tokenizer.hash)
    assert shard.tokens.dtype == np.uint32
    assert tokenizer.decode(shard.document(0)) == texts[0]


def test_another_tokenizer_is_refused_naming_both(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError) as refusal:
        open_shard(folder, "train", OTHER_HASH)
    assert tokenizer.hash[:12] in str(refusal.value)
    assert OTHER_HASH[:12] in str(refusal.value)
    assert "dvc repro encode" in str(refusal.value)


@pytest.mark.parametrize("name", ["train.bin", "train.offsets.npy", "train.sources.npy"])
def test_a_changed_file_is_refused(folder: Path, tokenizer: Tokenizer, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(HallmarkError, match=rf"{name}: .*not as it was written(.|\n)*dvc checkout --force"):
        open_shard(folder, "train", tokenizer.hash)
    assert open_shard(folder, "validation", tokenizer.hash).documents == 6


def test_a_torn_file_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    path = folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(HallmarkError, match=r"train.bin: .*not as it was written"):
        open_shard(folder, "train", tokenizer.hash)


def test_a_missing_file_or_split_is_named(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError, match="no split 'test'; allowed: train, validation"):
        open_shard(folder, "test", tokenizer.hash)
    (folder / "train.bin").unlink()
    with pytest.raises(HallmarkError, match=r"train.bin: this token shard is missing"):
        open_shard(folder, "train", tokenizer.hash)
    with pytest.raises(HallmarkError, match=r"there are no token shards\n  next: dvc repro encode"):
        open_shard(folder / "none", "train", tokenizer.hash)


def test_a_torn_manifest_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8")[:50], encoding="utf-8")
    with pytest.raises(HallmarkError, match=r"shards.json: this is not whole JSON"):
        open_shard(folder, "train", tokenizer.hash)


def test_a_failure_midway_leaves_no_whole_folder(folder: Path, texts: list[str], tokenizer: Tokenizer) -> None:
    def torn() -> Iterator[tuple[str, str]]:
        yield from sourced(texts[:3])
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_shards(folder, {"train": torn()}, tokenizer)
    assert not list(folder.glob("*.tmp"))
    with pytest.raises(HallmarkError, match="there are no token shards"):
        open_shard(folder, "train", tokenizer.hash)
