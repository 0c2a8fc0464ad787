"""Success rate over the distance to the goal. It runs evaluations, reuses finished ones, and draws the curve.

python -m benchmarks.planning.goal_distance env=push checkpoint=push batch=20      # → docs/assets/push_distance.png

Options are those of planning.evaluate. Goals are 10, 25, 50 and 100 control steps ahead in exploratory episodes, and
the budget is twice that number. There are 100 pairs for each, from seed 404, which was not used for any choice. The
curve is drawn from the results in runs/<env>/distance/<steps>.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from worldmodel.cli.command import as_plain, composed, fail
from worldmodel.core.errors import UserError

STEPS_AHEAD = (10, 25, 50, 100)
SEED = 404
_CURVES = (
    ("success_any", "at any step", "#e07a00"),
    ("success_final", "held at the end", "#00798c"),
    ("success_half_tolerance_any", "within half the tolerances, any step", "#7a3b96"),
)


def evaluate(env: str, overrides: list[str], steps_ahead: int) -> dict[str, Any]:
    """Results of `planning.evaluate` for goals `steps_ahead` control steps away."""
    out = Path("runs") / env / "distance" / str(steps_ahead)
    options = [f"manifest.seed={SEED}", f"manifest.steps_ahead={steps_ahead}", f"budget={2 * steps_ahead}"]
    line = [sys.executable, "-m", "planning.evaluate", *overrides, *options, "oracle=false", f"out={out}"]
    ended = subprocess.run(line, check=False)
    if ended.returncode:
        raise SystemExit(ended.returncode)
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


def draw(env: str, results: list[dict[str, Any]], path: Path) -> None:
    """Draw success rates with 95 % intervals over the steps from start to goal, and the better of the two baselines."""
    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    steps = [r["steps_ahead"] for r in results]
    for shift, (key, label, colour) in enumerate(_CURVES):
        rates = [100 * r[key] for r in results]
        around = [[100 * abs(r[key] - r[f"{key}_interval"][end]) for r in results] for end in (0, 1)]
        places = [s * (1 + 0.02 * (shift - 1)) for s in steps]  # shifted, so that the bars do not overlap
        axes.errorbar(places, rates, yerr=around, label=label, color=colour, marker="o", ms=4, capsize=3, lw=1.5)
    baseline = [100 * max(r["floors"][name]["success_any"] for name in ("no_op", "random")) for r in results]
    axes.plot(steps, baseline, color="#888888", ls=":", label="random or no actions, at any step")
    axes.set(xscale="log", ylim=(0, 101), ylabel="success in %", xlabel="control steps from start to goal")
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.minorticks_off()
    axes.set_title(f"{env}: {results[0]['n']} pairs each, budget twice the distance, 95 % intervals", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(overrides: list[str]) -> None:
    """Evaluate, then draw."""
    env = str(as_plain(composed("evaluate", overrides))["env"]["name"])
    path = Path("docs/assets") / f"{env}_distance.png"
    draw(env, [evaluate(env, overrides, steps) for steps in STEPS_AHEAD], path)
    print(f"curve: {path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))
