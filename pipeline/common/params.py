"""`params.yaml` as typed settings.

The fields of the sections are the only definition of a setting: name, type, allowed values, default and meaning.
`render` writes them as the commented `params.yaml`; `load_params` reads one and reports every mistake at once.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from pipeline.common.columns import Column
from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.figures import NAMES, highest
from pipeline.common.made_tasks import fault_of, with_defaults
from pipeline.common.parts import Biases, Family, FeedForward, Norm, NormPlacement, Positions
from pipeline.common.prompting import Prompting
from pipeline.common.section import Positive, Section, Share
from pipeline.common.section import render as render
from pipeline.common.tasks import Finetune as Finetune
from pipeline.common.tasks import Task as Task

PARAMS_FILE = Path("params.yaml")

Weight = Annotated[float, Field(ge=0.0, le=100.0)]

Objective = Literal["causal", "prefix-lm", "mlm", "mlm+nsp", "span-corruption"]

TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Source(Section):
    """Where text and labels come from."""

    kind: Literal["python-docs", "files", "python-docs+files"] = Field(
        "python-docs",
        description="python-docs: documentation of the libraries below; files: your own, under `path`; or both",
    )
    path: str = Field("data/own", description="folder of your own files (kind files); absolute, or relative to here")
    documents: list[str] | dict[str, str] = Field(
        ["**/*.txt", "**/*.md"],
        description="globs below `path` of the text to pretrain on: .txt .md .jsonl .csv .tsv .parquet, also .gz .zst; "
        "written {NAME: GLOB}, each names a source",
    )
    text_column: Column = Field(
        "text", description="column of the text in tables and .jsonl; without a header: numbers from 1 for all columns"
    )
    id_column: Column | None = Field(None, description="column of a unique id; null numbers the rows")
    split_column: Column | None = Field(
        None, description="column with train or validation; null draws the split from `validation_share`"
    )
    libraries: list[str] = Field(
        [
            "matplotlib", "networkx", "numpy", "pandas", "scikit-learn",
            "scipy", "sqlalchemy", "stdlib", "sympy", "torch",
        ],
        description="the libraries to read (kind python-docs): distribution names, and stdlib",
    )  # fmt: skip
    min_characters: Positive = Field(80, description="shorter docstrings are not read (kind python-docs)")
    validation_share: Share = Field(0.05, description="share of documents (of modules) held out for validation")
    test_share: Share = Field(0.08, description="share of modules held out for the test split of python-docs tasks")
    task_rows: Positive = Field(
        4000, description="rows of each task that python-docs gives beside `library`, at most, drawn by the seed"
    )

    @field_validator("documents", mode="before")
    @classmethod
    def _are_globs(cls, value: Any) -> Any:
        globs = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(globs, list) and all(isinstance(glob, str) and glob for glob in globs):
            return value
        raise ValueError("allowed: a list of globs, or globs by name as {NAME: GLOB}")

    @property
    def globs(self) -> dict[str, str]:
        """The globs of `documents` by the names of their sources: a glob without a name is its own."""
        return self.documents if isinstance(self.documents, dict) else {glob: glob for glob in self.documents}

    @property
    def reads_libraries(self) -> bool:
        return self.kind != "files"

    @property
    def reads_files(self) -> bool:
        return self.kind != "python-docs"

    @property
    def names(self) -> list[str]:
        """What the sources of this text are called."""
        return (self.libraries if self.reads_libraries else []) + (list(self.globs) if self.reads_files else [])


class Validate(Section):
    """What a row must be like. Rows that are not go to quarantine, with every reason."""

    max_quarantined_share: Share = Field(0.02, description="above this share of set-aside rows the stage fails")
    min_characters: Positive = Field(1, description="a text has at least this many characters")
    max_characters: Positive = Field(5_000_000, description="a text has at most this many characters")
    max_replacement_share: Share = Field(0.01, description="share of U+FFFD, the mark of a wrong encoding, per text")
    max_control_share: Share = Field(0.01, description="share of control characters other than tab and newline")
    max_duplicate_share: Share = Field(0.05, description="share of exact duplicate texts in a table, before they go")
    max_class_share: Share = Field(0.9, description="share of the largest class in a task's training split")


class Tokenizer(Section):
    """How text becomes tokens."""

    kind: Literal["bpe", "wordpiece", "unigram", "bytes", "characters"] = Field(
        "bpe", description="bpe, unigram, bytes, characters: give back any text; wordpiece: as BERT, normalises it"
    )
    vocab_size: Annotated[int, Field(ge=293, le=1_000_000)] = Field(
        4096, description="tokens, special ones included; kind bytes always has 293"
    )
    lowercase: bool = Field(
        False, description="read text in lower case and without accents, as BERT's uncased models (wordpiece only)"
    )
    training_megabytes: Positive = Field(32, description="learn the vocabulary from at most this much training text")

    @model_validator(mode="after")
    def _fits_together(self) -> "Tokenizer":
        if self.lowercase and self.kind != "wordpiece":
            raise ValueError(f"lowercase: kind {self.kind} gives back text exactly; allowed: false, or kind wordpiece")
        return self


class Encode(Section):
    """How tokens are stored."""

    validation_megabytes: Positive = Field(1, description="validate on at most this much held-out text")


class Compute(Section):
    """What the networks are trained and run on."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the processor has instructions for it"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: where a C++ compiler or GPU is there and the run is large enough to pay for it"
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="price of this machine, or of one GPU, for an hour, to predict what training costs"
    )
    restarts: Annotated[int, Field(ge=0)] = Field(
        0, description="after a process of several that train together died, start them again so often in one build"
    )
    min_processes: Positive | None = Field(
        None,
        description="start again as fewer of them, with at least so many: the next number that divides theirs; "
        "null: as many",
    )


class Model(Section):
    """The network: `preset` names its parts, `depth` gives its shape; a null below means derived, and printed."""

    init_from: str | None = Field(
        None,
        description="start from a published model (hf:FOLDER, hf:NAME) or from one made here (hallmark:NAME@ALIAS, "
        "hallmark:RUN, hallmark:FOLDER); null: from random weights",
    )
    preset: Literal["transformer-2017", "gpt2", "llama", "qwen3", "bert", "roberta", "modernbert", "t5"] = Field(
        "qwen3", description="the network whose parts are taken where they are null below"
    )
    depth: Positive = Field(2, description="number of blocks, or in an encoder-decoder of each of the two")
    hidden_size: Positive | None = Field(None, description="width of the residual stream; null: 64 x depth")
    num_heads: Positive | None = Field(None, description="attention heads; null: hidden_size / 64")
    num_kv_heads: Positive | None = Field(
        None, description="heads of keys and values, fewer for grouped or (1) multi-query attention; null: num_heads"
    )
    intermediate_size: Positive | None = Field(
        None, description="feed-forward width; null: 4 x hidden_size, or 8/3 x if gated, to a 64"
    )
    context_length: Positive = Field(256, description="tokens that the model sees at once")
    family: Family | None = Field(None, description="what sees what")
    positions: Positions | None = Field(None, description="how the network knows where a token stands")
    norm: Norm | None = Field(None, description="normalisation")
    norm_placement: NormPlacement | None = Field(None, description="pre: of what a part reads; post: of the sum")
    feed_forward: FeedForward | None = Field(None, description="activation; geglu and swiglu are gated")
    biases: Biases | None = Field(None, description="which linear layers have biases")
    qk_norm: bool | None = Field(None, description="normalise queries and keys in each head")
    sliding_window: Positive | None = Field(None, description="see only keys nearer than this; null: as the preset")
    ngram_sizes: list[Annotated[int, Field(ge=2)]] | None = Field(
        None,
        description="add to each token's vector those of its n-grams, of so many tokens each: [2], or [2, 3, 4] for "
        "characters; null: none",
    )
    ngram_buckets: Positive | None = Field(
        None, description="vectors for the n-grams of each size, which share them by a hash; null: 32,768"
    )
    tied_embeddings: bool | None = Field(None, description="share the token embedding with the output head")
    dropout: Share = Field(0.0, description="dropout in pretraining, on embeddings and on each block's outputs")
    attention_dropout: Share = Field(0.0, description="dropout in pretraining, on attention weights")


class Pretrain(Section):
    """Learning language from text, before any label."""

    steps: Annotated[int, Field(ge=0)] | None = Field(
        1200,
        description="optimizer steps; null: 20 tokens per matrix parameter, in batches of batch_tokens; "
        "0: none, to fine-tune model.init_from as it is",
    )
    batch_tokens: Positive = Field(4096, description="tokens per optimizer step, over all ranks")
    micro_batch_tokens: Positive | Literal["auto"] | None = Field(
        None,
        description="tokens per forward pass; null: batch_tokens; auto: the most that fit into this machine's memory",
    )
    logit_tokens: Positive | None = Field(
        None,
        description="tokens whose logits are held at once: fewer need less memory with a large vocabulary; null: 2,048 "
        "on a CPU, 16,384 on a GPU",
    )
    processes: Positive | None = Field(
        1, description="processes on this machine that share each batch; null: one for each GPU"
    )
    sharding: Literal["none", "full", "hybrid"] = Field(
        "none",
        description="none: every process holds all weights; full: each holds a part of them, of their gradients and "
        "of the optimizer; hybrid: the parts are spread over a node, and every node holds all",
    )
    packing: Literal["documents", "stream"] | None = Field(
        None,
        description="documents: rows of whole documents, cut only where longer than a row, none of which sees another "
        "(causal, prefix-lm, mlm); stream: rows cut from all text in one; null: documents where the objective goes "
        "with it",
    )
    source_weights: dict[str, Weight] = Field(
        {},
        description="how often the text of a source comes in an epoch, by name (a library, or a name or glob of "
        "source.documents): 2 twice, 0.5 half of it and the other half in the next, 0 never; not named: once",
    )
    optimizer: Literal["muon", "adamw"] = Field("muon", description="muon: Muon for matrices, AdamW for the rest")
    learning_rate: float = Field(0.004, gt=0, description="peak learning rate of AdamW")
    muon_learning_rate: float = Field(0.02, gt=0, description="peak learning rate of Muon")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of the matrices")
    warmup_share: Share = Field(0.02, description="share of the steps with a rising learning rate")
    schedule: Literal["wsd", "cosine"] = Field(
        "wsd", description="after the warm-up; wsd: constant, then a linear fall; cosine: half a cosine"
    )
    decay_share: Share = Field(0.4, description="share of the steps, at the end, with a falling rate (wsd)")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    mask_share: Annotated[float, Field(gt=0.0, lt=0.9)] = Field(
        0.15, description="share of tokens to be guessed (mlm, mlm+nsp, span-corruption)"
    )
    whole_words: bool = Field(False, description="mask all tokens of a word or none (mlm, mlm+nsp)")
    mean_span: Annotated[float, Field(ge=1.0)] = Field(3.0, description="mean tokens per gap (span-corruption)")
    validate_every: Positive = Field(100, description="steps between validations")
    checkpoint_every: Positive = Field(50, description="steps between checkpoints; the last two stay")
    keep_every: Positive | None = Field(
        None, description="steps between checkpoints that are kept for ever, in the stage's folder `kept`; null: none"
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="leave out so many steps whose loss or gradient is not finite, then stop; 0: stop at once"
    )

    @field_validator("micro_batch_tokens", mode="before")
    @classmethod
    def _is_a_number_or_auto(cls, value: Any) -> Any:
        if value is None or value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        raise ValueError("allowed: a number of tokens from 1 on, auto, null")


class Evaluate(Section):
    """How sure the figures are."""

    bootstrap_samples: Positive = Field(1000, description="resamples behind each interval")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="confidence of the intervals")


class Promote(Section):
    """When a challenger may become champion."""

    min_accuracy: Share = Field(0.0, description="never promote below this accuracy")
    min_macro_f1: Share = Field(0.0, description="never promote below this macro-F1, of classes or of labels of spans")
    floors: dict[str, float] = Field(
        {},
        description="never promote below these, in all tasks that have such a figure: {micro_f1: 0.8, bleu: 25}; "
        f"allowed: {', '.join(NAMES)}",
    )
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.05, description="significance level of the paired tests")
    margin: Share = Field(
        0.01,
        description="how much of the leading figure a challenger may lose and still be called not worse; 0.01 is one "
        "point of BLEU, chrF or ROUGE",
    )
    accept_not_worse: bool = Field(False, description="promote on the verdict `not worse`, too")
    dialogues: Positive = Field(
        64,
        description="test dialogues that versions answer, evenly spread: more find smaller differences, and on a CPU "
        "each takes seconds",
    )

    @field_validator("floors")
    @classmethod
    def _are_of_figures(cls, floors: dict[str, float]) -> dict[str, float]:
        faults = [f"there is no figure {figure}; {allowed(NAMES)}" for figure in floors if figure not in NAMES]
        for figure in NAMES:
            if not 0 <= floors.get(figure, 0) <= highest(figure):
                faults.append(f"{figure} goes from 0 to {highest(figure):g}")
        if faults:
            raise ValueError("; ".join(faults))
        return floors


class Params(Section):
    """All of `params.yaml`, in the order of the pipeline."""

    seed: int = Field(1, ge=0, description="every random choice follows from it")
    source: Source = Source()
    validate_: Validate = Field(Validate(), alias="validate")
    tokenizer: Tokenizer = Tokenizer()
    encode: Encode = Encode()
    compute: Compute = Compute()
    model: Model = Model()
    objective: Objective | None = Field(
        None,
        description="what pretraining learns to predict; null: causal for a decoder, mlm for an encoder, "
        "span-corruption for an encoder-decoder",
    )
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    tasks: Annotated[dict[TaskName, Task], BeforeValidator(with_defaults)] = Field(
        {"library": Task()}, min_length=1, description="The tasks to fine-tune for, by name."
    )
    prompting: dict[TaskName, Prompting] = Field(
        {}, description="Tasks to prompt the pretrained model for as well, by name; {}: none."
    )
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        for name, task in self.tasks.items():
            if fault := fault_of(name, task.kind, task.path, self.source.kind):
                raise ValueError(fault)
            if task.kind != "sequence_to_sequence" and (task.target_path is not None or task.pretrain_on):
                raise ValueError(f"tasks.{name}: target_path and pretrain_on go with kind sequence_to_sequence only")
        for name in self.prompting:
            if name not in self.tasks:
                raise ValueError(f"prompting.{name}: there is no such task; {allowed(self.tasks)}")
            if self.tasks[name].kind != "classification":
                raise ValueError(f"prompting.{name}: only tasks of the kind classification can be prompted")
            pairs = self.tasks[name].pair_column is not None
            if pairs and not self.prompting[name].reads_pairs:
                raise ValueError(f"prompting.{name}.template: has no {{pair}}, and the task's pair_column names a text")
            if self.prompting[name].reads_pairs and not pairs:
                raise ValueError(f"prompting.{name}.template: has {{pair}}, and the task's pair_column names no text")
        learned = [name for name, task in self.tasks.items() if task.pretrain_on]
        if self.source.kind == "files" and not self.source.globs and not learned:
            raise ValueError("source.documents: names nothing to pretrain on, and no task has pretrain_on")
        names = self.source.names + learned
        if both := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"source: two sources are called {', '.join(both)}; give each its own name")
        for name in self.pretrain.source_weights:
            if name not in names:
                raise ValueError(f"pretrain.source_weights.{name}: no source has this name; {allowed(names)}")
        if self.pretrain.steps == 0 and self.model.init_from is None:
            raise ValueError("pretrain.steps: 0 needs model.init_from, else the weights stay random")
        return self


def load_params(path: Path | str = PARAMS_FILE) -> Params:
    """Read and check `params.yaml`.

    Raises:
        HallmarkError: all unknown keys and wrong values at once, each with what is allowed.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HallmarkError("there is no such file", where=str(path), fix=f"git checkout {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HallmarkError(f"this is not YAML: {error}", where=str(path), fix="mend the line named") from None
    return check_params(raw or {}, str(path))


def check_params(raw: Any, where: str) -> Params:
    """Check settings that were read from `where`, and complete them with the defaults.

    Raises:
        HallmarkError: all unknown keys and wrong values at once, each with what is allowed.
    """
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = Problems(where)
        for fault in error.errors():
            problems.add(_explain(fault))
        problems.raise_if_any(fix=f"mend these keys in {where}")
        raise


def _explain(fault: Any) -> str:
    keys = [str(key) for key in fault["loc"]]
    place = ".".join(keys)
    section = _section_at(keys[:-1])
    if fault["type"] == "extra_forbidden" and section is not None:
        names = [field.alias or name for name, field in section.model_fields.items()]
        near = difflib.get_close_matches(keys[-1], names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{place}: unknown key; {hint}{allowed(names)}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, not {fault['input']!r}" if place else message


def _section_at(keys: list[str]) -> type[Section] | None:
    annotation: Any = Params
    for key in keys:
        if get_origin(annotation) is dict:  # of tasks, by name
            annotation = get_args(annotation)[1]
        elif isinstance(annotation, type) and issubclass(annotation, Section):
            fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
            annotation = fields.get(key)
        else:
            return None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
