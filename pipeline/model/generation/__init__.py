"""Continuing a text: settings, the choice of a token, beam search, the cached steps, and text in and out."""
