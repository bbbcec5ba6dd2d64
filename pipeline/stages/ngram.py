"""Stage `ngram`: the bits per byte of a byte-level 5-gram model, which the trained network has to beat."""

from pipeline.common.layout import TOKENIZER, TOKENS
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    from pipeline.evaluation.ngram import measure_ngram
    from pipeline.tokenization.shards import open_shard
    from pipeline.tokenization.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(TOKENIZER)
    train = open_shard(TOKENS, "train", tokenizer.hash)
    validation = open_shard(TOKENS, "validation", tokenizer.hash)
    figures = measure_ngram(train, validation, tokenizer)
    stage.announce({"bits_per_byte": round(figures["bits_per_byte"], 4)})
    stage.write_metrics(figures)


if __name__ == "__main__":
    run_stage(main, "ngram")
