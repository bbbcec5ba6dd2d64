"""The tasks that the source python-docs makes without a file: their names, and what each of them is."""

from typing import Any

MADE_TASKS = {
    "library": "classification",
    "parameters": "token_classification",
    "describe": "question_answering",
    "summarise": "sequence_to_sequence",
}


def with_defaults(tasks: Any) -> Any:
    """The settings of tasks as `params.yaml` has them; made tasks that do not say otherwise have the kind that follows
    from their name, and all but `library` learn from all labels: labels cost nothing here.
    """
    if not isinstance(tasks, dict):
        return tasks
    return {name: _defaults(name, task) | task if isinstance(task, dict) else task for name, task in tasks.items()}


def _defaults(name: Any, task: dict[str, Any]) -> dict[str, Any]:
    if name not in MADE_TASKS or task.get("path") is not None:
        return {}
    return {"kind": MADE_TASKS[name]} | ({} if name == "library" else {"labels_per_class": None})


def fault_of(name: str, kind: str, path: str | None, source_kind: str) -> str | None:
    """Why a task cannot have its rows from this kind of source; None: it can."""
    if path is not None:
        reads_none = source_kind == "python-docs"
        return f"tasks.{name}.path: source.kind python-docs reads no file; allowed: null" if reads_none else None
    if source_kind == "files":
        return f"tasks.{name}.path: source.kind files needs the labelled file of this task"
    if name not in MADE_TASKS:
        return f"tasks.{name}.path: name a labelled file; without one python-docs makes {', '.join(MADE_TASKS)} only"
    if kind != MADE_TASKS[name]:
        return f"tasks.{name}.kind: python-docs makes {name} for {MADE_TASKS[name]}, not {kind}"
    return None
