"""Objectives, batches, optimizers, schedules, the loop, checkpoints."""
