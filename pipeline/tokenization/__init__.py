"""Tokenizers, their contract, token shards."""
