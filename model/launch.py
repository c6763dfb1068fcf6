"""``python -m model.launch --processes N --spec FILE.json``: run ``model.train``, under torchrun if N is not 1.

torchrun outlives the process that started it, so a killed flow would leave a training run behind, which holds the run's
lock. This program asks the kernel to end it with its parent, then becomes torchrun. torchrun also treats every signal
as a failure; here, a run that has saved its checkpoint after SIGTERM ends with exit code 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from data.process import die_with_parent

ENDED = "WEBTEXT_ENDED"  # names a file that the first process makes when the run is done, or saved to go on later
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
STOP_GRACE_S = 600  # a run that is asked to stop ends its step and saves a checkpoint; torchrun's default is 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="model.launch", description="Train under torchrun.")
    parser.add_argument("--processes", type=int, default=1, help="processes on this machine, one per GPU")
    parser.add_argument("--spec", required=True, help="the run's TrainSpec as a JSON file")
    arguments = parser.parse_args()
    die_with_parent(signal.SIGTERM)  # torchrun passes it on, and training saves a checkpoint first
    if arguments.processes == 1:
        for name in OF_TORCHRUN:  # a cluster may set them for programs that are one process of many
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, "-m", "model.train", "--spec", arguments.spec])  # noqa: S606 - fixed arguments

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.run import main as torchrun

    ended = Path(f"{arguments.spec}.ended")
    ended.unlink(missing_ok=True)  # left by an earlier process that was killed
    os.environ[ENDED] = str(ended)
    options = ["--standalone", f"--nproc-per-node={arguments.processes}", f"--shutdown-timeout={STOP_GRACE_S}"]
    try:
        torchrun([*options, "-m", "model.train", "--spec", arguments.spec])
    except SignalException:
        if not ended.exists():
            raise
        sys.exit(0)
    finally:
        ended.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
