"""Number formats of a training: each file registers one; a builder gives plain values for the engine."""
