"""Stubs of TensorRT's bindings → mypy's findings in our TensorRT code, exit status 1 when there are any.

    pip install --no-deps --target STUBS tensorrt-stubs==10.13.0.35.1
    python tests/builder/actions/compile/check_types.py STUBS

The vendor's wheels have no stubs; these were generated from the bindings of 10.13. They must not lie in the
environment itself: their directories would make an empty module `tensorrt` importable. What pybind11 wrote and
no parser reads is mended in a copy.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[4]


def mend(stubs: Path) -> None:
    """Parameters called `in`, a parameter without default behind one with, a package that is not there."""
    bindings = stubs / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"\bin: list", "in_: list", bindings.read_text())
    text = re.sub(r"(def add_scale_nd.*)channel_axis: int\)", r"\1channel_axis: int = 0)", text)
    bindings.write_text(text)
    for module in stubs.glob("tensorrt*/__init__.pyi"):
        module.write_text(
            module.read_text().replace("import tensorrt_libs as tensorrt_libs\n", "tensorrt_libs: object\n")
        )


def main() -> None:
    """The stubs' directory is the only argument."""
    with tempfile.TemporaryDirectory() as directory:
        stubs = Path(shutil.copytree(sys.argv[1], Path(directory, "stubs")))
        mend(stubs)
        result = subprocess.run(
            [sys.executable, "-m", "mypy", "--cache-dir", str(Path(directory, "cache")), "tritonsmith/builder/actions/compile"],
            cwd=ROOT, env={**os.environ, "MYPYPATH": str(stubs)}, capture_output=True, text=True,
        )  # fmt: skip
    ours = [line for line in result.stdout.splitlines() if line.startswith("tritonsmith/")]
    if "checked" not in result.stdout:
        sys.exit(result.stdout + result.stderr)
    print("\n".join(ours) or "no findings")
    sys.exit(1 if any("error:" in line for line in ours) else 0)


if __name__ == "__main__":
    main()
