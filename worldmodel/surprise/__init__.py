"""How surprised a predictor is by what it sees (violation of expectation, arXiv 2502.11831)."""
