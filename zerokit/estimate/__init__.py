"""What a run will need before it runs: memory by kind, communication and time of one rank's step.

`simulate` builds the real engine on the meta device and takes real training steps there: no values, only shapes. What
is allocated is followed storage by storage (`ledger`), what is computed and sent is timed on a clock with one reading
per stream (`clock`), compiled regions are what torch.compile's own pipeline makes of them up to code generation
(`compiled`). Nothing here repeats a formula of the engine.
"""
