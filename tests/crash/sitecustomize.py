"""Kill the program at a chosen point of its progress. Only the crash tests put this on PYTHONPATH.

WEBTEXT_KILL is ``stage:what:amount``. It sends SIGKILL once the program has published ``amount`` bytes of the stage's
datasets (before the file that reaches the amount gets its name) or sealed ``amount`` rows (after the files, before the
record). The process that gets there kills the process that was started first, and itself. ``checkpoints`` and
``scores`` count as stages. The file WEBTEXT_KILL_MARK records the kill, so a test can tell it from an early end.
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

    publish = lake_module.Lake.publish
    publish_json = lake_module.Lake.publish_json
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
