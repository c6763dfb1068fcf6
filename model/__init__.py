"""GPT-2: training, evaluation, tracking.

Importing the package limits how long torch's threads spin. libgomp reads the limit when torch loads it, so it must be
in the environment by then, and child processes inherit it. A thread that waits for another one spins 300,000 times
by default, up to 20 ms. On cores that other programs use too, the thread it waits for cannot run in that time, and
training becomes several times slower than its share of the cores (docs/benchmarks.md). libgomp spins 1,000 times
itself when it knows of more threads than cores, but it does not see the threads of other programs.
"""

import os

SPIN_COUNT = 1_000  # about 0.1 ms: longer than the wait for a thread that is running

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():  # otherwise the user has decided
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
