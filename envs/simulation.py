"""Simulates many action sequences at once in MuJoCo, without rendering."""

from __future__ import annotations

import mujoco
import mujoco.rollout
import numpy as np

from envs.world import Floats

MAX_FINITE = 1e10  # mjMAXVAL, the magnitude from which MuJoCo calls a number bad


def roll_out(
    model: mujoco.MjModel, start: mujoco.MjData, scratch: mujoco.MjData, actions: Floats, substeps: int
) -> Floats:
    """Positions, velocities and activations `[S, T, nq + nv + na]` after each of `actions [S, T, A]`.

    Args:
        model: the model, with auto-reset switched off.
        start: data at the start of every sequence.
        scratch: data that is overwritten.
        actions: controls, each held for `substeps` steps of the simulator.

    A sequence is NaN from the step where it diverges, or from its first non-finite action.
    """
    num_sequences, num_steps, _ = actions.shape
    signature = mujoco.mjtState.mjSTATE_FULLPHYSICS
    initial = np.empty(mujoco.mj_stateSize(model, signature))
    mujoco.mj_getState(model, start, initial, signature)
    controls = np.repeat(np.nan_to_num(actions), substeps, axis=1)
    full, _ = mujoco.rollout.rollout(model, [scratch], np.tile(initial, (num_sequences, 1)), controls)
    full = full[:, substeps - 1 :: substeps]
    states: Floats = full[..., 1 : 1 + model.nq + model.nv + model.na].copy()  # the first number is the clock
    # A rollout that diverges repeats its last state to the end, so its clock stands still.
    expected_time = initial[0] + model.opt.timestep * substeps * np.arange(1, num_steps + 1)
    bad = np.abs(full[..., 0] - expected_time) > model.opt.timestep / 2
    bad |= ~(np.abs(states) < MAX_FINITE).all(-1) | ~np.isfinite(actions).all(-1)
    states[np.maximum.accumulate(bad, axis=1)] = np.nan
    return states
