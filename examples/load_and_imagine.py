"""Load a world model, observe, imagine the outcome of actions, and plan: python examples/load_and_imagine.py"""

import numpy as np
import torch

from planning import Planner
from worldmodel.models.registry import load_model

model = load_model("push", torch.device("cpu"))  # a shipped one, or a folder that worldmodel.train has written
planner = Planner(model, {"options.samples": 64})
(camera,) = model.spec.cameras
pictures = np.random.default_rng(0).integers(0, 256, (2, *camera.shape), np.uint8)  # yours come from a camera

latent = planner.observe(pictures[0], proprio=np.zeros(model.spec.proprio_size))
actions = np.zeros((3, 8, model.spec.action.size))  # three futures of eight control steps, in physical units
actions[1], actions[2] = model.spec.action.high, model.spec.action.low
futures = planner.imagine(latent, actions)
print("distance to the goal at the end:", planner.distance(futures, pictures[1])[:, -1])

plan = planner.plan(latent, pictures[1])
print("first action:", plan.actions[0], model.spec.action.units, "expected cost:", plan.cost)
