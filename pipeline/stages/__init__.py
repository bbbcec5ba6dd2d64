"""The doors: one short module per DVC stage."""
