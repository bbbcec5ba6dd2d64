"""Stage `tokenizer`: training documents to a vocabulary, or the one of an imported model."""

from pipeline.common.errors import HallmarkError
from pipeline.common.layout import CLEAN_DOCUMENTS, IMPORTED, TOKENIZER
from pipeline.stages.door import Stage, run_stage

REPORT_MEGABYTES = 4  # of validation text that the report is measured on


def main(stage: Stage) -> None:
    from pipeline.tokenization.quality import longest_tokens, measure
    from pipeline.tokenization.texts import MEGABYTE, stream_texts
    from pipeline.tokenization.tokenizer import Tokenizer
    from pipeline.tokenization.training import train_tokenizer

    settings, source = stage.params.tokenizer, stage.params.model.init_from
    if source is None:
        training_texts = stream_texts(CLEAN_DOCUMENTS, "train", settings.training_megabytes * MEGABYTE)
        tokenizer = train_tokenizer(training_texts, settings.kind, settings.vocab_size, settings.lowercase)
    else:
        tokenizer = Tokenizer.load(IMPORTED)
    validation = measure(tokenizer, stream_texts(CLEAN_DOCUMENTS, "validation", REPORT_MEGABYTES * MEGABYTE))
    if not validation["bytes"]:
        raise HallmarkError(
            "there is no validation text",
            where=str(CLEAN_DOCUMENTS),
            fix="raise source.validation_share in params.yaml, or give more documents",
        )
    is_smaller = source is None and tokenizer.vocab_size < settings.vocab_size and settings.kind != "bytes"
    lacking = "characters" if settings.kind == "characters" else "words"
    asked = {"vocab_size_asked": f"{settings.vocab_size}: the text has too few repeated {lacking}"}
    unknown = {"unknown_share": round(validation["unknown_share"], 5)}
    stage.announce(
        {
            "kind": settings.kind if source is None else f"that of {source}; the section tokenizer is not read",
            "vocab_size": tokenizer.vocab_size,
            **(asked if is_smaller else {}),
            "bytes_per_token": round(validation["bytes_per_token"], 3),
            **(unknown if tokenizer.unk_id is not None else {}),
        }
    )
    tokenizer.save(TOKENIZER)
    stage.write_metrics(
        {
            "vocab_size": tokenizer.vocab_size,
            "vocab_size_asked": settings.vocab_size if source is None else tokenizer.vocab_size,
            "validation": validation,
            "longest_tokens": longest_tokens(tokenizer),
        }
    )


if __name__ == "__main__":
    run_stage(main, "tokenizer")
