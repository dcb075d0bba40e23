"""State on disk: named tensors that several ranks share, written so that no fault can damage what is there.

A state is a folder: one safetensors file per rank, and a manifest that says which elements of which tensor each file
holds. It is written under another name and renamed once it is whole. Knows nothing of engines, stages and models.

Reading order: `errors` → `disk` (every change to the disk) → `manifest` (what a state is) → `piece` and `rankfile` (a
rank's tensors as bytes) → `snapshot` (copies on the host) → `save` → `read` → `folder` (a run's states) → `resume`.
"""
