"""Data sources: one file per name in `conf/data`. Sample = f(seed, epoch, global index), for any world size."""
