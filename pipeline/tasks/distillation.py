"""Distillation: a trained classifier of any size as the teacher of a new one (Hinton, Vinyals and Dean 2015,
arXiv:1503.02531). It is read once, before the training; what it says is kept with the checkpoints.

Legend: N texts, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path
from pipeline.model.weights import read_config
from pipeline.tasks.classification import KIND, Classification, load_classifier
from pipeline.tasks.rows import texts_of

OUTPUTS = Path("models")


def take_teacher(task: Any, folder: str, device: str, scratch: Path) -> dict[str, Any]:
    """Let `task` learn from the classifier in `folder`, too.

    Args:
        task: a classification that is ready to be trained.
        folder: of a classifier; its network and its tokenizer may be other ones than the student's.
        device: to run it on.
        scratch: folder of the training, where the teacher's probabilities are kept for a training that goes on.

    Returns:
        Who the teacher is, and how much of the training texts it has right; to be printed and recorded.

    Raises:
        HallmarkError: it is no classifier of the same labels, this build writes it, or a training that was stopped had
            another teacher.
    """
    place = f"params.yaml: the task's teacher {folder}"
    if not isinstance(task, Classification) or task.kind != KIND:
        raise HallmarkError("only a task of the kind classification can have a teacher", where=place, fix="null: none")
    if OUTPUTS.resolve() in Path(folder).resolve().parents:
        raise HallmarkError(
            "the teacher lies where this build writes its models, and would change under it",
            where=place,
            fix=f"cp -r {folder} ../teacher, and name that folder",
        )
    sha256 = read_config(folder)["weights_sha256"]
    kept = scratch / f"teacher-{sha256[:12]}.safetensors"
    if others := [path for path in scratch.glob("teacher-*") if path != kept]:
        raise HallmarkError(
            f"the training that was stopped here had the teacher {others[0].stem.removeprefix('teacher-')}, "
            f"and this is {sha256[:12]}",
            where=place,
            fix=f"rm -r {scratch}, to start over",
        )
    if not kept.exists():
        probabilities = _ask(folder, device, task, place)
        with atomic_path(kept) as temporary:
            save_file({"probabilities": probabilities}, temporary)
    teacher_NC = load_file(kept)["probabilities"]
    task.learn_from(teacher_NC)
    labels = np.array(task.labels)[teacher_NC.argmax(dim=1).numpy()]
    right = float((labels == task.train_rows["label"].to_numpy()).mean())
    return {"teacher": sha256[:12], "teacher_training_accuracy": right}


def _ask(folder: str, device: str, task: Classification, place: str) -> Tensor:
    """The teacher's probabilities of the task's training texts, float32 (N, C)."""
    teacher = load_classifier(folder, device)
    missing, spare = sorted(set(task.labels) - set(teacher.labels)), sorted(set(teacher.labels) - set(task.labels))
    if missing or spare:
        raise HallmarkError(
            f"the teacher has other labels than the task: it lacks {missing or 'none'}, and has "
            f"{spare or 'none'} beside them",
            where=place,
            fix="name a classifier of the same labels",
        )
    if teacher.reads_pairs != (task.separator is not None):
        raise HallmarkError(
            f"the teacher reads {'pairs of' if teacher.reads_pairs else 'single'} texts, and the task does not",
            where=place,
            fix="name a classifier of the same texts",
        )
    columns = [teacher.labels.index(label) for label in task.labels]
    found = teacher.predict_probabilities(texts_of(task.train_rows))
    return torch.from_numpy(found)[:, columns].contiguous()
