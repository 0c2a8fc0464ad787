"""Decoders from latents to images, which show what a world model imagines. They are never needed to act."""
