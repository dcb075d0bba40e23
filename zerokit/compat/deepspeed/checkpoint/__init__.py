"""`deepspeed.checkpoint`: helpers around saved weights."""
