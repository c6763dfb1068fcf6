"""``python -m model.launch --processes N --spec FILE.json``: torchrun over ``model.train``, on a leash.

torchrun itself does not end with the process that started it, and a killed flow would leave a training run behind that
holds the run's lock. This program asks the kernel to end it with its parent, then becomes torchrun.
"""

from __future__ import annotations

import argparse
import signal

from data.process import die_with_parent

STOP_GRACE_S = 600  # a run that is asked to stop ends its step and saves a checkpoint; torchrun's own is 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="model.launch", description="Train under torchrun.")
    parser.add_argument("--processes", type=int, default=1, help="processes on this machine, one a GPU")
    parser.add_argument("--spec", required=True, help="the run's TrainSpec as a JSON file")
    arguments = parser.parse_args()
    die_with_parent(signal.SIGTERM)  # torchrun passes it on, and training saves a checkpoint first

    from torch.distributed.run import main as torchrun

    options = ["--standalone", f"--nproc-per-node={arguments.processes}", f"--shutdown-timeout={STOP_GRACE_S}"]
    torchrun([*options, "-m", "model.train", "--spec", arguments.spec])


if __name__ == "__main__":
    main()
