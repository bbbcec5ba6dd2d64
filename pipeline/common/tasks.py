"""The settings of the tasks, and of fine-tuning for them."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from pipeline.common.columns import Column
from pipeline.common.parts import Matrix
from pipeline.common.section import Positive, Section, Share


class Finetune(Section):
    """Learning a task from labels, for every task."""

    adapt: Literal["full", "lora", "head"] = Field(
        "full",
        description="what learns beside the new head; full: all of the pretrained model; lora: low-rank adapters, "
        "added to its matrices at the end; head: nothing",
    )
    lora_rank: Positive = Field(8, description="rank of the adapters (lora)")
    lora_alpha: float = Field(16.0, gt=0, description="what adapters add is multiplied by this over the rank (lora)")
    lora_targets: Annotated[list[Matrix], Field(min_length=1)] = Field(
        list(get_args(Matrix)), description="the matrices that get adapters, where a network has them (lora)"
    )
    epochs: Positive = Field(8, description="passes over the labels, at most")
    batch_size: Positive = Field(16, description="labelled texts per optimizer step")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="muon: Muon for the matrices of the body's blocks, AdamW for the rest (adapt full)",
    )
    learning_rate: float = Field(0.0003, gt=0, description="peak learning rate of the pretrained body")
    muon_learning_rate: float = Field(0.02, gt=0, description="peak learning rate of Muon")
    lora_learning_rate: float = Field(0.003, gt=0, description="peak learning rate of the adapters (lora)")
    layer_rate_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="the rate of each block of the body is that of the block above, times this; 1: all the same"
    )
    head_learning_rate: float = Field(0.01, gt=0, description="peak learning rate of the new head")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay")
    warmup_share: Share = Field(0.1, description="share of the steps with a rising learning rate; then it falls to 0")
    label_smoothing: Share = Field(0.1, description="probability moved from the label to all classes")
    teacher_weight: Share = Field(
        0.5,
        description="share of the loss that is the distance to the teacher, for tasks with one; the rest: to the label",
    )
    teacher_temperature: float = Field(
        2.0,
        gt=0,
        description="soften the probabilities of teacher and student; larger: what it finds unlikely counts more",
    )
    dropout: Share = Field(
        0.1,
        description="dropout before the head; of sequence_to_sequence: on embeddings and on each block's outputs",
    )
    token_dropout: Share = Field(
        0.1, description="share of a text's tokens left out, drawn anew at every step (not sequence_to_sequence)"
    )
    ngrams: bool = Field(
        True,
        description="true: beside the network learn, apart from it, a linear classifier of words and word pairs, and "
        "one of 3 to 6 characters inside words; the answer is the product of the probabilities, each to the power "
        "of a weight that is fitted to validation (classification, multi_label_classification)",
    )
    ngram_learning_rate: float = Field(0.008, gt=0, description="peak learning rate of the classifiers of n-grams")
    max_tokens: Positive = Field(192, description="longer texts are cut here; the number cut is reported")
    pooling: Literal["mean", "first", "last"] = Field("mean", description="how token vectors become one text vector")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    patience: Positive = Field(4, description="stop after this many epochs without a better figure on validation")
    validation_texts: Positive = Field(400, description="validate on at most this many texts")


class Task(Section):
    """One downstream task."""

    kind: Literal[
        "classification",
        "multi_label_classification",
        "token_classification",
        "question_answering",
        "sequence_to_sequence",
        "dialogue",
    ] = Field(
        "classification",
        description="classification: one label of a text; multi_label_classification: any number of labels; "
        "token_classification: labelled spans in it; question_answering: the span of it that answers a question; "
        "sequence_to_sequence: another text, as in translation and summarisation; dialogue: what an assistant says",
    )
    path: str | None = Field(
        None, description="labelled file or glob below source.path (kind files); null: made from python-docs"
    )
    target_path: str | None = Field(
        None,
        description="file of the targets, line by line beside the texts in the file `path`; each * of it stands for "
        "what that of `path` found (sequence_to_sequence); null: `path` names tables that have them",
    )
    text_column: Column = Field(
        "text", description="column of the text; this and the others: numbers from 1 in .csv and .tsv without a header"
    )
    pair_column: Column | None = Field(
        None,
        description="column of a second text that belongs to the first (sentence pairs); null: there is none, or "
        "`question` (question_answering)",
    )
    label_column: Column | None = Field(
        None,
        description="column of what is learned; null: `label`, `labels`, `spans`, `answers`, `target` or `messages`, "
        "by the kind; named with kind dialogue, it has the answers to what text_column asks",
    )
    tag_column: Positive | None = Field(
        None, description="column of the tag in CoNLL files, from 1 (token_classification); null: the last"
    )
    id_column: Column | None = Field(None, description="column of a unique id; null numbers the rows")
    split_column: Column | None = Field(
        None, description="column with train, validation or test; null draws 70/10/20 by the text's hash"
    )
    labels_per_class: Positive | None = Field(
        32,
        description="labelled texts per class to train on, or pairs in all (sequence_to_sequence), drawn by the seed; "
        "null: all",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: a text weighs the more in the loss, the rarer its label is (classifications)"
    )
    teacher: str | None = Field(
        None,
        description="folder of a trained classifier with the same labels, whose probabilities for the training texts "
        "are learned beside the labels (kind classification); null: none",
    )
    pretrain_on: bool = Field(
        False,
        description="the pairs of training and validation are documents, too, from which the vocabulary and the "
        "pretraining learn (sequence_to_sequence with a path)",
    )
    max_target_tokens: Positive | None = Field(
        None,
        description="longer targets are cut here, and no longer ones are written (sequence_to_sequence); null: a "
        "quarter of a decoder's context, finetune.max_tokens of an encoder-decoder",
    )
    beams: Positive = Field(
        4, description="texts that beam search keeps side by side when it is tested and served (sequence_to_sequence)"
    )
    length_penalty: float = Field(1.0, description="beam search divides a log-probability by (tokens) to this power")
    measure: Literal["chrf", "bleu", "rouge_l"] = Field(
        "chrf", description="the figure that leads, and that chooses the weights kept (sequence_to_sequence)"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Task":
        if self.kind == "token_classification" and self.pair_column is not None:
            raise ValueError(f"pair_column: kind {self.kind} reads single texts; allowed: null")
        if self.kind not in ("classification", "multi_label_classification") and self.class_weights != "none":
            raise ValueError(f"class_weights: kind {self.kind} has none; allowed: none")
        return self
