"""The tokens family: a block-causal transformer over all tokens of the frames (V-JEPA 2-AC)."""
