"""Stage `ngram`: the bits per byte of a byte-level 5-gram model, which the trained network has to beat."""

from pipeline.common.layout import CLEAN_DOCUMENTS
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    from pipeline.evaluation.ngram import measure_ngram
    from pipeline.tokenization.texts import MEGABYTE, stream_texts

    most_bytes = stage.params.encode.validation_megabytes * MEGABYTE  # the text that pretraining is validated on
    train = stream_texts(CLEAN_DOCUMENTS, "train")
    validation = stream_texts(CLEAN_DOCUMENTS, "validation", most_bytes)
    figures = measure_ngram(train, validation)
    stage.announce({"bits_per_byte": round(figures["bits_per_byte"], 4)})
    stage.write_metrics(figures)


if __name__ == "__main__":
    run_stage(main, "ngram")
