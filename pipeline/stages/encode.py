"""Stage `encode`: documents to memory-mapped token shards."""

from pipeline.common.layout import CLEAN_DOCUMENTS, TOKENIZER, TOKENS
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    from pipeline.tokenization.shards import write_shards
    from pipeline.tokenization.texts import MEGABYTE, stream_documents
    from pipeline.tokenization.tokenizer import Tokenizer

    most_bytes = stage.params.encode.validation_megabytes * MEGABYTE
    splits = {
        "train": stream_documents(CLEAN_DOCUMENTS, "train"),
        "validation": stream_documents(CLEAN_DOCUMENTS, "validation", most_bytes),
    }
    manifest = write_shards(TOKENS, splits, Tokenizer.load(TOKENIZER))
    counts = ("documents", "tokens", "text_bytes")
    stage.write_metrics(
        {
            split: {count: described[count] for count in counts}
            | {"bytes_per_token": described["text_bytes"] / max(described["tokens"], 1)}
            | {"tokens_by_source": described["tokens_by_source"]}
            for split, described in manifest["splits"].items()
        }
    )


if __name__ == "__main__":
    run_stage(main, "encode")
