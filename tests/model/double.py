"""``python -m model.train`` in fp64, where rounding errors of fp32 cannot hide other differences."""

import os
import sys

import torch

from model.train import main

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    code = main()
    sys.stdout.flush()
    os._exit(code)  # as model.train ends
