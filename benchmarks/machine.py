"""What the numbers of a benchmark were measured on."""

import os
import platform


def machine() -> str:
    """The system, its cores and the interpreter, for the JSON line."""
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
