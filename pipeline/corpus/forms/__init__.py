"""What the labelled rows of each kind of task hold, and what they must be like: one module per form."""
