"""What all tests share."""

from __future__ import annotations

import hypothesis
import torch

# No deadline: how long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("default")
# Models of toy size lose more time to waiting for each other's threads than they win.
torch.set_num_threads(1)
