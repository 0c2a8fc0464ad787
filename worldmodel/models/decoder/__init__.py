"""A decoder from latents to pictures, which shows what a world model imagines. It is never needed to act."""
