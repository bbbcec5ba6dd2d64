"""The parts of a language model, and the families built from them."""
