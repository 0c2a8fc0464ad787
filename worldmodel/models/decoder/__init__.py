"""A decoder from latents to images, which shows what a world model imagines. It is never needed to act."""
