"""Which seeds are for what, so that an evaluation can never meet an episode that was trained on."""

# Recordings reset their environments with smaller seeds, manifests with these and larger ones.
FIRST_EVALUATION_SEED = 2**31
