"""Hallmark: raw text and labels in, a registered language model out."""
