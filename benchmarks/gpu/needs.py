"""What a machine with a GPU must have, and the wheels for what it may lack.

``python -m benchmarks.gpu.needs FOLDER`` (``make gpu-wheels``) collects the wheels, where there is a network, pinned by
constraints.txt. They are installed without a network into a folder that the program puts on its path.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = "gpu-packages"  # where the wheels are installed
WHEELS_FOLDER = "gpu-wheels"
MAX_WHEELS_MB = 40
LEAST_TORCH = (2, 11)

WHEELS = {  # by the module that is imported
    "annotated_types": "annotated-types",
    "filelock": "filelock",
    "fsspec": "fsspec",
    "orjson": "orjson",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic_core",
    "regex": "regex",
    "safetensors": "safetensors",
    "tiktoken": "tiktoken",
    "tiktoken_ext": "tiktoken",
    "typing_extensions": "typing_extensions",
    "typing_inspection": "typing-inspection",
}
PRESENT = ("torch", "numpy", "pyarrow", "transformers", "matplotlib")
"""Must be there with torch: they are large, or belong to the torch that the machine has."""
INSTALL = (
    f"python3 -m pip install --no-index --no-deps --target {PACKAGES} {WHEELS_FOLDER}/*.whl"  # in the project's folder
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64")


def use_packages() -> None:
    """Import what the machine lacks from where the wheels were installed; what the machine has comes first."""
    sys.path.append(str(ROOT / PACKAGES))


def missing() -> list[str]:
    """One line for each import that fails. Large modules are looked for and not imported, which would take seconds."""
    lines = []
    for module, package in WHEELS.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            wheel = next((path.name for path in (ROOT / WHEELS_FOLDER).glob("*.whl") if _is_of(path, package)), package)
            lines.append(f"import {module} fails ({error}); its wheel is {wheel}")
    for module in PRESENT:
        if find_spec(module) is None:
            lines.append(f"import {module} fails; it is too large for a wheel here, so install it as the machine does")
    return lines


def torch_complaint() -> str | None:
    """What is wrong with the version of torch, or None."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return None  # ``missing`` says so, or it is a build without metadata
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    if numbers >= LEAST_TORCH:
        return None
    return f"torch {found}: too old, the report needs {'.'.join(map(str, LEAST_TORCH))} or newer"


def gpu_complaint() -> str | None:
    """Why torch does not see a GPU, or None."""
    import torch

    from model import world

    why = world.why_no_cuda()
    return (
        why and f"torch {torch.__version__}: {why}; the report needs a GPU, --tiny --device cpu only tries the program"
    )


def _is_of(wheel: Path, package: str) -> bool:
    return wheel.name.partition("-")[0].lower().replace("_", "-") == package.lower().replace("_", "-")


def collect(folder: Path, python: str) -> float:
    """Download the wheels into ``folder``; returns their megabytes."""
    for old in folder.glob("*.whl"):
        old.unlink()
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    constraints = ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder)]
    packages = sorted(set(WHEELS.values()))
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, *constraints, *packages], check=True)
    return sum(path.stat().st_size for path in folder.glob("*.whl")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect the wheels that a machine with a GPU may lack.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python on the machine with the GPU")
    arguments = parser.parse_args()
    size_mb = collect(arguments.folder, arguments.python)
    print(f"{arguments.folder}: {len(list(arguments.folder.glob('*.whl')))} wheels, {size_mb:.1f} MB")
    if size_mb > MAX_WHEELS_MB:
        raise SystemExit(
            f"{arguments.folder}: {size_mb:.1f} MB of wheels, more than {MAX_WHEELS_MB}; take some off the list"
        )
    print(f"copy the project with this folder to the machine; there, in the project's folder:\n  {INSTALL}")


if __name__ == "__main__":
    main()
