"""Training time, bytes per token and encoding speed of every kind of tokenizer, beside bare `tokenizers`.

Each is trained on the text, then encodes all of it, in three ways that take turns:

    bare       `tokenizers.Tokenizer.encode_batch` of the same tokenizer.json, a megabyte of documents at once
    tokenizer  our `Tokenizer.encode_batch` on the same batches
    shards     `write_shards`: the same, and the tokens are written and hashed

The first round of encoding warms the caches and does not count. All use every core that they are given.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.choices import choose
from benchmarks.machine import describe_machine, seconds_of
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError

MEGABYTE = 1_000_000
WAYS = ("bare", "tokenizer", "shards")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "a text file, or a folder whose *.txt and *.md are read; default: the documentation that params.yaml names"
    parser.add_argument("--text", type=Path, help=text)
    parser.add_argument("--megabytes", type=float, default=32, help="of text, at most (default: %(default)s)")
    parser.add_argument("--kinds", default="all", help="kinds with commas (default: all)")
    parser.add_argument("--vocab-size", type=int, default=4096, help="tokens (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen kinds.

    Returns:
        "machine", "documents", "text_bytes", "repeats"; "kinds": {KIND: {"training_seconds": {"median", "seconds"},
        "vocab_size", "bytes_per_token", "encoding": {WAY: {"median", "seconds", "megabytes_per_second"}}, "ratio":
        {"tokenizer", "shards"}: their speed as a share of the bare one, median over the rounds}}.

    Raises:
        HallmarkError: an unknown kind, or there is no text.
    """
    from pipeline.tokenization.training import KINDS

    kinds = choose(options.kinds, list(KINDS), "--kinds", "kind ")
    machine = describe_machine()
    texts = list(_limit(_read(options.text), options.megabytes * MEGABYTE))
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise HallmarkError("there is no text", where=str(options.text), fix="name a file or folder with --text")
    return {
        "machine": machine,
        "documents": len(texts),
        "text_bytes": size,
        "repeats": options.repeats,
        "kinds": {kind: _measure(kind, texts, size, options.vocab_size, options.repeats) for kind in kinds},
    }


def _read(path: Path | None) -> Iterator[str]:
    if path is None:
        from pipeline.common.params import Params
        from pipeline.corpus.python_docs import read_python_docs

        yield from read_python_docs(Params().source, Params().seed).documents["text"]
    elif path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".md")):
            yield file.read_text(encoding="utf-8")
    else:
        yield path.read_text(encoding="utf-8")


def _limit(texts: Iterator[str], most_bytes: float) -> Iterator[str]:
    for text in texts:
        if most_bytes <= 0:
            return
        kept = text.encode()[: int(most_bytes)].decode(errors="ignore")
        most_bytes -= len(text.encode())
        yield kept


def _measure(kind: str, texts: Sequence[str], size: int, vocab_size: int, repeats: int) -> dict[str, Any]:
    from pipeline.tokenization.training import train_tokenizer

    training = [seconds_of(lambda: train_tokenizer(texts, kind, vocab_size)) for _ in range(repeats)]
    tokenizer = train_tokenizer(texts, kind, vocab_size)
    batches = list(_batches(texts))
    with tempfile.TemporaryDirectory(prefix="hallmark-tokenize-") as folder:
        ways, counts = _encoders(tokenizer, texts, batches, Path(folder))
        rounds = [[seconds_of(ways[way]) for way in WAYS] for _ in range(1 + repeats)]
    seconds = dict(zip(WAYS, map(list, zip(*rounds[1:], strict=True)), strict=True))
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "training_seconds": {"median": statistics.median(training), "seconds": training},
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": size / (counts["tokens"] - counts["documents"]),  # without the bos of each document
        "encoding": {
            way: {
                "median": medians[way],
                "seconds": seconds[way],
                "megabytes_per_second": size / MEGABYTE / medians[way],
            }
            for way in WAYS
        },
        "ratio": {way: _paired_ratio(seconds["bare"], seconds[way]) for way in WAYS[1:]},
    }


def _paired_ratio(bare: Sequence[float], ours: Sequence[float]) -> float:
    """The median over rounds of one speed as a share of the other: both of a round met the same load."""
    return statistics.median(slow / fast for slow, fast in zip(bare, ours, strict=True))


def _encoders(
    tokenizer: Any, texts: Sequence[str], batches: Sequence[Sequence[str]], folder: Path
) -> tuple[dict[str, Callable[[], None]], dict[str, int]]:
    """The three ways to encode all texts; the second holds "tokens" and "documents" once the third has run."""
    import tokenizers

    from pipeline.tokenization.shards import write_shards
    from pipeline.tokenization.tokenizer import TOKENIZER_FILE

    tokenizer.save(folder)
    bare = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    counts: dict[str, int] = {}

    def encode_bare() -> None:
        for batch in batches:
            bare.encode_batch(batch)

    def encode() -> None:
        for batch in batches:
            tokenizer.encode_batch(batch)

    def write() -> None:
        counts.update(
            write_shards(folder / "tokens", {"train": ((text, "text") for text in texts)}, tokenizer)["splits"]["train"]
        )

    return {"bare": encode_bare, "tokenizer": encode, "shards": write}, counts


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= MEGABYTE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def format_result(result: dict[str, Any]) -> str:
    """The result as one table."""
    header = ("kind", "vocabulary", "training, s", "bytes/token", *(f"{way}, MB/s" for way in WAYS), "shards/bare")
    rows = [
        (
            kind,
            f"{found['vocab_size']:,}",
            f"{found['training_seconds']['median']:.1f}",
            f"{found['bytes_per_token']:.2f}",
            *(f"{found['encoding'][way]['megabytes_per_second']:.2f}" for way in WAYS),
            f"{found['ratio']['shards']:.0%}",
        )
        for kind, found in result["kinds"].items()
    ]
    title = (
        f"{result['text_bytes'] / MEGABYTE:.1f} MB in {result['documents']:,} documents, "
        f"{result['machine']['cores']} cores, medians of {result['repeats']}"
    )
    return f"{title}\n\n{format_table(header, rows)}"
