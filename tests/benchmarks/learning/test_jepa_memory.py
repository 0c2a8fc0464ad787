"""The benchmark of the kept mask predictor, at toy size."""

from __future__ import annotations

from benchmarks.learning.jepa_memory import measure
from worldmodel.cli.command import as_plain, composed

SMALL = ["encoder.width=32", "encoder.depth=1", "encoder.heads=2", "jepa.predictor_width=16", "jepa.predictor_depth=1"]


def test_predicting_holds_the_weights_of_one_encoder() -> None:
    config = as_plain(composed("pretrain", SMALL))
    train, full, predict = (measure(row, config, 2)[0] for row in ("train", "with target", "predict"))
    assert train == full
    assert predict < 2 / 3 * train
