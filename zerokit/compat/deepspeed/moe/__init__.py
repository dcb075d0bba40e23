"""`deepspeed.moe`: importable, not there."""
