"""Kills the program at a chosen point of its own progress; on PYTHONPATH for the crash tests only.

WEBTEXT_KILL is ``stage:what:amount``: when the datasets of that stage have had ``amount`` bytes published (before the
file that reaches it gets its name) or ``amount`` rows sealed (after the files, before the record), the whole program is
killed with SIGKILL: the process that was started first, whichever process got there. ``checkpoints`` and ``scores`` are
stages here too. A file beside the lake says that the kill happened, so that a test can tell a kill from an early end.
"""

import os
import signal
import sys

ARGUMENTS = sys.orig_argv


def install(stage: str, what: str, amount: int) -> None:
    from pathlib import Path

    from data.lake import store as lake_module

    done = 0

    def kill() -> None:
        Path(os.environ["WEBTEXT_KILL_MARK"]).write_text(f"{stage} {what} {done}")
        os.kill(int(os.environ["WEBTEXT_KILL_ROOT"]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    publish, publish_json = lake_module.Lake.publish, lake_module.Lake.publish_json
    publish_directory = lake_module.Lake.publish_directory

    def counting_publish(self, local: Path, *names: str) -> None:
        nonlocal done
        if what == "bytes" and names[0] == stage:
            done += local.stat().st_size
            if done >= amount:
                kill()
        publish(self, local, *names)

    def counting_publish_json(self, value: object, *names: str) -> None:
        nonlocal done
        if what == "rows" and names[0] == stage and isinstance(value, dict) and "rows_in" in value and "name" in value:
            done += max(1, value["rows_in"])
            if done >= amount:
                kill()
        publish_json(self, value, *names)

    def counting_publish_directory(self, local: Path, *names: str) -> None:
        nonlocal done
        if what == "bytes" and names[0] == stage:
            done += sum(path.stat().st_size for path in local.rglob("*") if path.is_file())
            if done >= amount:
                kill()
        publish_directory(self, local, *names)

    lake_module.Lake.publish = counting_publish
    lake_module.Lake.publish_json = counting_publish_json
    lake_module.Lake.publish_directory = counting_publish_directory


def is_ours() -> bool:
    return any(word.endswith("webtext") or word.startswith("model.") for word in ARGUMENTS[1:])


if os.environ.get("WEBTEXT_KILL") and is_ours():
    os.environ.setdefault("WEBTEXT_KILL_ROOT", str(os.getpid()))
    chosen_stage, chosen_what, chosen_amount = os.environ["WEBTEXT_KILL"].split(":")
    install(chosen_stage, chosen_what, int(chosen_amount))
