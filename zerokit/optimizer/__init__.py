"""Optimizers: each file registers one and holds its formula, elementwise over flat fp32 shards."""
