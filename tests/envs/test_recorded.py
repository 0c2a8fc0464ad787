"""What `push` and `reacher` record, against hashes of what they recorded before.

Contacts differ between versions of MuJoCo, and pictures between graphics drivers: the former hold for one version, of
the latter only the brightness is compared.
"""

from __future__ import annotations

import hashlib

import mujoco
import numpy as np
import pytest

from envs.collect import record_episode
from envs.registry import make_named

# By environment and distractors: beginnings of the SHA-256 of actions, proprioception and states of episodes 0 to 2 of
# seed 0; the mean of their frames.
RECORDED = {
    ("push", False): ("1e35b6d57c76d235", "8feb713092fab72b", "4a614ec723775873", 184.760),
    ("push", True): ("1e35b6d57c76d235", "8feb713092fab72b", "a6f381df76c0be06", 128.567),
    ("reacher", False): ("e7cf494c4302936b", "c3c366b1b27e35d5", "19b1a44feba2f217", 65.814),
}


@pytest.mark.skipif(mujoco.__version__ != "3.11.0", reason="recorded with MuJoCo 3.11.0")
@pytest.mark.parametrize(("name", "distractors"), RECORDED)
def test_the_same_seed_records_what_it_always_did(name, distractors):
    env = make_named(name, **({"distractors": True} if distractors else {}))
    try:
        episodes = [record_episode(env, 0, index, 50) for index in range(3)]
    finally:
        env.close()
    *expected, brightness = RECORDED[name, distractors]
    for column, sha256 in zip(("action", "proprio", "state"), expected, strict=True):
        digest = hashlib.sha256(b"".join(getattr(e, column).tobytes() for e in episodes)).hexdigest()
        assert digest[:16] == sha256, column
    frames = [next(iter(e.images.values())) if hasattr(e, "images") else e.pixels for e in episodes]
    assert np.mean(frames) == pytest.approx(brightness, abs=0.1)
