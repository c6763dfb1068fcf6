"""Settle on a rented GPU, in seven minutes, what no CPU can show: whether the GPU path is right, and how fast it is.

    python -m benchmarks.gpu [--nanogpt DIR] [--to FILE] [--limit 420] [--only NAME,..] [--tiny] [--device cpu]
    python -m benchmarks.gpu --write-docs FILE..

The machine needs Linux, an NVIDIA GPU, Python >= 3.11 and a torch >= 2.11 that sees it; no network, no servers. The
packages it may lack are listed in ``needs``; what is missing is said before anything runs.

The phases (``phases``) run in order of worth, in child processes, so that one that hangs can be killed and its memory
comes back. Each prints one JSON line when it ends, which also goes to the file. The last line has the ratios, the
goals, and what was not reached. The exit code is 1 if a phase failed, an exactness check failed, or a phase was not
reached. ``--tiny --device cpu`` runs all of it in under a minute to check that it works; its numbers mean nothing.

    phases                the list, with budgets
    parent, child, job    run the phases
    card                  names the card and measures its peak
    exactness             compares with transformers, with fp64 and with a resumed run
    loop                  runs the training loop as a whole
    speed, nanogpt        train 124M, ours and nanoGPT in turn
    kernels               finds where the time of a step goes
    sizes                 trains 355M to 1558M
    losses                times the kernel of the loss
    scoring, recipes      count scored items per second, and the tokens to a fixed loss
    goals                 compares the dry run and the goals with what was measured
    docs                  writes the section of docs/benchmarks.md
"""
