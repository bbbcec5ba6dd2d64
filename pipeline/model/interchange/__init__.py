"""Published models in, and ours out: one small table per architecture."""
