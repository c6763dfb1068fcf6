"""Run the pages stage in a process that a test can kill. Arguments: LAKE SETTINGS [LOG], the settings as JSON."""

import json
import sys
from pathlib import Path

from data.config import PagesConfig
from data.lake.store import Lake
from data.pages.stage import run

if __name__ == "__main__":
    lake, settings, *log = sys.argv[1:]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(settings).items()}
    outcome = run(Lake(lake), "s1", PagesConfig(**values), log=Path(log[0]) if log else None)
    print(outcome.manifest.digest)
