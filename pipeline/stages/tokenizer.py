"""Stage `tokenizer`: training documents to a vocabulary."""

from pipeline.common.errors import HallmarkError
from pipeline.common.layout import CLEAN_DOCUMENTS, TOKENIZER
from pipeline.stages.door import Stage, run_stage

REPORT_MEGABYTES = 4  # of validation text that the report is measured on


def main(stage: Stage) -> None:
    from pipeline.tokenization.quality import longest_tokens, measure
    from pipeline.tokenization.texts import MEGABYTE, stream_texts
    from pipeline.tokenization.tokenizer import train_bpe

    settings = stage.params.tokenizer
    training_texts = stream_texts(CLEAN_DOCUMENTS, "train", settings.training_megabytes * MEGABYTE)
    tokenizer = train_bpe(training_texts, settings.vocab_size)
    validation = measure(tokenizer, stream_texts(CLEAN_DOCUMENTS, "validation", REPORT_MEGABYTES * MEGABYTE))
    if not validation["bytes"]:
        raise HallmarkError(
            "there is no validation text",
            where=str(CLEAN_DOCUMENTS),
            fix="raise source.validation_share in params.yaml, or give more documents",
        )
    smaller = tokenizer.vocab_size < settings.vocab_size
    stage.announce(
        {
            "vocab_size": tokenizer.vocab_size,
            **({"vocab_size_asked": f"{settings.vocab_size}: the text has too few repeated words"} if smaller else {}),
            "bytes_per_token": round(validation["bytes_per_token"], 3),
        }
    )
    tokenizer.save(TOKENIZER)
    stage.write_metrics(
        {
            "vocab_size": tokenizer.vocab_size,
            "vocab_size_asked": settings.vocab_size,
            "validation": validation,
            "longest_tokens": longest_tokens(tokenizer),
        }
    )


if __name__ == "__main__":
    run_stage(main, "tokenizer")
