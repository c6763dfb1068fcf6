"""GPT-2: training, evaluation, tracking.

Importing the package limits how long torch's threads spin. libgomp reads the limit when torch loads it, so it must be
in the environment by then, and child processes inherit it. By default a thread that waits for another one spins
300,000 times, about 20 ms. On a shared core the other thread cannot run meanwhile, and training becomes several times
slower than its share of the cores (docs/benchmarks.md). libgomp itself spins only 1,000 times when it knows of more
threads than cores, but it does not see the threads of other programs.
"""

import os

SPIN_COUNT = 1_000  # less than 0.1 ms

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():  # otherwise the user has decided
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
