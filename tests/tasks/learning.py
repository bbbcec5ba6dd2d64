"""A short training of a task without the machinery of a stage."""

from typing import Any

import torch


def learn(task: Any, steps: int, clip: float | None = None) -> Any:
    """The task's network after so many steps of AdamW, in eval mode; the norm of its gradient is at most `clip`."""
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        [batch], _ = next(task.batches())
        loss, count = task.loss(model, batch)
        (loss / count).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
