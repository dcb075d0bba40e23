"""The differential fuzzer: seeded random models and training scripts, under zerokit and under plain PyTorch.

A seed gives a `Program` (`program`), plain data. `modules`, `packs` and `build` make its model, `script` trains it,
the same code on both sides: `run` on forked gloo ranks through `zerokit.initialize`, `reference` in one process with
one copy of the model per rank, whose gradients are averaged. `compare` names what came out:

| outcome | meaning | fine |
|---|---|---|
| same | losses, gradients of inputs, buffers and weights are those of PyTorch within the tolerance of `compare` | yes |
| refused | every rank raised an error of the list `compare.REFUSALS` | yes |
| invalid | PyTorch itself cannot run the program | yes |
| different | no error, other numbers | no |
| crash | any other error | no |
| hang | a rank gave no answer in time, also where the others were refused | no |

`make test` runs a fixed range of seeds, `make test-fuzz BUDGET=600` as many as fit into the seconds. By hand:

    python -m tests.fuzz --programs 1000 --seed 0 --jobs 2
    python -m tests.fuzz --seed 4711 --programs 1          # one program again
    python -m tests.fuzz --only use:probe                  # seeds whose program has the feature
    python -m tests.fuzz --singles                         # every feature by itself, at stages 3 and 0

Failing programs are shrunk: features are left out one by one for as long as the outcome stays what it is.
"""
