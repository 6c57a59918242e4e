"""TensorRT's Python bindings wheel → class → member names as JSON on standard output, without TensorRT's library.

    pip download --no-deps --dest WHEELS tensorrt-cu13-bindings==11.4.0.106 tensorrt-cu12-bindings==10.16.0.72
    python tests/builder/actions/compile/read_bindings.py WHEELS/*.whl > tests/builder/actions/compile/bindings.json

Importing the bindings needs libnvinfer, which a machine without a GPU need not have. They take a dozen functions
from it, all called later: a library of that name with empty functions (needs gcc) lets the import succeed, and
dir() then tells what the bindings offer. The wheel must be for this interpreter.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# What a builder and a runtime touch, a function among it; the rest of the bindings is no concern of ours.
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "Dims", "HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor",
    "ILayer", "ITensor", "ITimingCache", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError",
    "Runtime", "TensorFormat", "TensorIOMode", "TensorLocation", "init_libnvinfer_plugins",
)  # fmt: skip

LIST = """
import json, tensorrt_bindings.tensorrt as t
print(json.dumps({n: sorted(m for m in dir(getattr(t, n)) if not m.startswith("_")) for n in dir(t)}))
"""


def read(wheel: Path) -> dict[str, list[str]]:
    """Class → names that do not start with an underscore."""
    with tempfile.TemporaryDirectory() as directory:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
        bindings = next(Path(directory).rglob("tensorrt.so"))
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", bindings], capture_output=True, text=True, check=True
        )
        wanted = re.findall(
            r" U ((?:create|get|init)\w*(?:Nv|Infer|Plugin)\w*)$", listed.stdout, re.MULTILINE
        )
        source = Path(directory, "empty.c")
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in wanted))
        needed = subprocess.run(
            ["readelf", "-d", bindings], capture_output=True, text=True, check=True
        ).stdout
        for name in re.findall(r"\[(libnv\S+)\]", needed):
            subprocess.run(
                ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", Path(directory, name), source],
                check=True,
            )
        environment = {**os.environ, "LD_LIBRARY_PATH": directory, "PYTHONPATH": directory}
        # The package's own __init__ is not needed and would look for the library elsewhere.
        answer = subprocess.run(
            [sys.executable, "-c", LIST], env=environment, capture_output=True, text=True, check=True
        )
    members: dict[str, list[str]] = json.loads(answer.stdout)
    return members


def main() -> None:
    """Every wheel named on the command line."""
    result: dict[str, object] = {}
    for name in sys.argv[1:]:
        package, version = Path(name).name.split("-")[:2]
        members = read(Path(name))
        known = {kind: " ".join(members[kind]) for kind in CLASSES}
        result[version] = {"source": f"{package}=={version}", "members": known}
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    print(json.dumps({"read": today, "bindings": result}, indent=1))


if __name__ == "__main__":
    main()
