"""Activation checkpointing: what autograd keeps of a block for backward. One file per name in `conf/checkpointing`.

A component has `wrap(forward, index)`: it takes the forward of the block with that place in the model and returns one
that computes the same. The result may be compiled: `block.forward = torch.compile(component.wrap(block.forward, i))`.
"""
