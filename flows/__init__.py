"""When, where, again: the Prefect flows. `dvc repro` builds the same without them."""
