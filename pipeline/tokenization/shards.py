"""Token shards: documents as one memory-mapped row of token ids, with their borders.

data/tokens/SPLIT.bin           the ids, little-endian uint16 or uint32; each document is `bos` and its tokens
data/tokens/SPLIT.offsets.npy   int64 (documents + 1,): document i is tokens[offsets[i] : offsets[i + 1]]
data/tokens/SPLIT.sources.npy   uint32 (documents,): the source of each document, its place in the names in shards.json
data/tokens/shards.json         what they hold, their hashes and the tokenizer's; written last
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.files import atomic_path, read_json, sha256_file, write_json
from pipeline.tokenization.tokenizer import Tokenizer

MANIFEST = "shards.json"
CHUNK_CHARACTERS = 1 << 20  # encoded at once: large enough for all cores, and memory does not grow with the text


@dataclass(frozen=True)
class TokenShard:
    """The documents of one split.

    Attributes:
        tokens: uint16 or uint32 (N,), mapped from the disk.
        offsets: int64 (documents + 1,).
        tokenizer_hash: of the tokenizer that made it.
        text_bytes: UTF-8 bytes of the documents' texts.
        sources: names of where the documents are from.
        source_of: uint32 (documents,), each document's place in `sources`; None: all are of the first.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    tokenizer_hash: str
    text_bytes: int
    sources: tuple[str, ...] = ("text",)
    source_of: np.ndarray | None = None

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    def document(self, place: int) -> np.ndarray:
        """The tokens of one document, `bos` first."""
        return self.tokens[self.offsets[place] : self.offsets[place + 1]]

    @property
    def document_sources(self) -> np.ndarray:
        """(documents,), each document's place in `sources`."""
        return np.zeros(self.documents, dtype=np.uint32) if self.source_of is None else self.source_of

    def tokens_by_source(self) -> dict[str, int]:
        """The tokens of each source's documents, `bos` included, by name."""
        return _count_tokens(self.sources, self.document_sources, self.offsets)


def write_shards(
    folder: Path | str, splits: Mapping[str, Iterable[tuple[str, str]]], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Encode the documents of each split, (text, name of its source), and return what `shards.json` says of them.

    Memory holds one chunk of text and twelve bytes per document.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # until it is back, the folder is not whole
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    names: dict[str, int] = {}  # sources by their first document
    written = {
        split: _write_split(folder, split, documents, tokenizer, dtype, names) for split, documents in splits.items()
    }
    manifest = {
        "dtype": dtype.name,
        "tokenizer_hash": tokenizer.hash,
        "sources": list(names),
        "splits": written,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _write_split(
    folder: Path,
    split: str,
    documents: Iterable[tuple[str, str]],
    tokenizer: Tokenizer,
    dtype: np.dtype,
    names: dict[str, int],
) -> dict[str, Any]:
    digest, text_bytes, offsets, sources = hashlib.sha256(), 0, array("q", [0]), array("I")

    def texts() -> Iterator[str]:
        for text, source in documents:
            sources.append(names.setdefault(source, len(names)))
            yield text

    with atomic_path(_tokens_file(folder, split)) as temporary, temporary.open("wb") as handle:
        for chunk in chunks(texts(), tokenizer):
            row: list[int] = []
            for (piece, begins), ids in zip(chunk, tokenizer.encode_batch([piece for piece, _ in chunk]), strict=True):
                if begins:
                    row.append(tokenizer.bos_id)
                    offsets.append(offsets[-1] + 1)
                row += ids
                offsets[-1] += len(ids)
                text_bytes += len(piece.encode())
            content = np.array(row, dtype=dtype).tobytes()
            digest.update(content)
            handle.write(content)
    offsets_file, sources_file = _offsets_file(folder, split), _sources_file(folder, split)
    offsets_read, sources_read = np.array(offsets, dtype="<i8"), np.array(sources, dtype="<u4")
    for path, values in ((offsets_file, offsets_read), (sources_file, sources_read)):
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, values, allow_pickle=False)
    return {
        "tokens": offsets[-1],
        "documents": len(offsets) - 1,
        "text_bytes": text_bytes,
        "sha256": digest.hexdigest(),
        "offsets_sha256": sha256_file(offsets_file),
        "sources_sha256": sha256_file(sources_file),
        "tokens_by_source": _count_tokens(list(names), sources_read, offsets_read),
    }


def _count_tokens(names: Sequence[str], sources: np.ndarray, offsets: np.ndarray) -> dict[str, int]:
    counts = np.zeros(len(names), dtype=np.int64)
    np.add.at(counts, sources, np.diff(offsets))
    return dict(zip(names, counts.tolist(), strict=True))


def chunks(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[tuple[str, bool]]]:
    """Group texts into chunks of `CHUNK_CHARACTERS`, long ones in pieces: (piece, whether a text begins with it)."""
    chunk: list[tuple[str, bool]] = []
    characters = 0
    for text in texts:
        for place, piece in enumerate(tokenizer.pieces(text)):
            chunk.append((piece, place == 0))
            characters += len(piece)
            if characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = [], 0
    if chunk:
        yield chunk


def open_shard(folder: Path | str, split: str, tokenizer_hash: str) -> TokenShard:
    """Map one split's tokens.

    Raises:
        HallmarkError: the shards were made by another tokenizer (both hashes are named), a file is missing or not as
            it was written, or there is no such split.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest["tokenizer_hash"] != tokenizer_hash:
        raise HallmarkError(
            f"these tokens were made by the tokenizer {manifest['tokenizer_hash'][:12]}, not by {tokenizer_hash[:12]}",
            where=str(folder),
            fix="dvc repro encode",
        )
    if split not in manifest["splits"]:
        raise HallmarkError(f"there is no split {split!r}; {allowed(manifest['splits'])}", where=str(folder / MANIFEST))
    described = manifest["splits"][split]
    _verify(_tokens_file(folder, split), described["sha256"])
    _verify(_offsets_file(folder, split), described["offsets_sha256"])
    _verify(_sources_file(folder, split), described["sources_sha256"])
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    return TokenShard(
        tokens=_map(_tokens_file(folder, split), dtype),
        offsets=np.load(_offsets_file(folder, split), allow_pickle=False),
        tokenizer_hash=tokenizer_hash,
        text_bytes=described["text_bytes"],
        sources=tuple(manifest["sources"]),
        source_of=np.load(_sources_file(folder, split), allow_pickle=False),
    )


def _tokens_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"


def _offsets_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.offsets.npy"


def _sources_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.sources.npy"


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise HallmarkError("there are no token shards", where=str(folder), fix="dvc repro encode") from None
    except ValueError as error:
        raise HallmarkError(
            f"this is not whole JSON ({error})", where=str(folder / MANIFEST), fix=_restore(folder)
        ) from error


def _verify(path: Path, expected: str) -> None:
    if not path.exists():
        raise HallmarkError("this token shard is missing", where=str(path), fix=_restore(path.parent))
    found = sha256_file(path)
    if found != expected:
        raise HallmarkError(
            f"this token shard is not as it was written: its sha256 is {found[:12]}, shards.json has {expected[:12]}",
            where=str(path),
            fix=_restore(path.parent),
        )


def _restore(folder: Path) -> str:
    return f"dvc checkout --force {folder.as_posix()}, or `dvc repro --force encode` to write it again"


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
