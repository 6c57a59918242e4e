"""`python -m tritonsmith.perf.doctor.gpu_check [--wheels DIR] …`: this Python, wheels → the GPU check.

The wheels go into a virtual environment below a temporary directory that sees this Python's packages and is deleted
afterwards; nothing of this machine is changed and no network is asked. The standard library alone.
"""

from __future__ import annotations

import argparse
import os
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tritonsmith.builder.base.machine.own import python_path
from tritonsmith.perf.doctor.gpu_check import wheels

_BUDGET_S = 570.0
_LEAST_S = 60.0


def main() -> int:
    """The exit code of `tritonsmith doctor --gpu`; 3 when a package is missing without which it does not start."""
    parser = argparse.ArgumentParser(prog="python -m tritonsmith.perf.doctor.gpu_check")
    parser.add_argument("--wheels", type=Path, help="a directory of wheels")
    options, others = parser.parse_known_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tritonsmith-gpu-check-") as temporary:
        python, env = sys.executable, dict(os.environ)
        env["PYTHONPATH"] = python_path(env)
        if options.wheels is not None:
            if not options.wheels.is_dir():
                _say(f"error: no directory of wheels: {options.wheels}")
                return 2
            made = _environment(Path(temporary) / "venv", options.wheels.resolve())
            if made is None:
                return 3
            python = made
            env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(options.wheels.resolve())}
            if _has(options.wheels, "nvidia-pytriton"):
                env.setdefault("TRITONSMITH_SERVER_HOME", str(Path(temporary) / "server"))
        if not _starts(python, env):
            return 3
        left_s = max(_LEAST_S, _BUDGET_S - (time.monotonic() - begun))
        budget = [] if any(o.startswith("--budget") for o in others) else ["--budget", f"{left_s:.0f}"]
        command = [python, "-m", "tritonsmith", "doctor", "--gpu", *budget, *others]
        return subprocess.run(command, env=env, check=False).returncode


def _starts(python: str, env: dict[str, str]) -> bool:
    """Whether the command line can be imported there; else says what is lacking, with versions."""
    probe = (
        "from tritonsmith.perf.doctor.gpu_check import wheels; "
        "print('\\n'.join(w.requirement for w in wheels.lacking(False)))"
    )
    said = subprocess.run([python, "-c", probe], env=env, capture_output=True, text=True, check=False)
    imported = subprocess.run(
        [python, "-c", "import tritonsmith, pydantic, tritonclient.grpc, onnxruntime, onnx"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if imported.returncode == 0:
        return True
    last = (imported.stderr.strip().splitlines() or ["no reason given"])[-1]
    lacking = said.stdout.split()
    _say(f"error[wheels_missing]: tritonsmith does not start on {python}: {last}")
    _say(f"  missing: {' '.join(lacking) or 'nothing by name'}")
    _say(
        "  fix:     where there is a network: pip download --only-binary=:all: -d wheels " + " ".join(lacking)
    )
    _say("           then here: make gpu-check WHEELS=wheels")
    return False


def _environment(root: Path, folder: Path) -> str | None:
    """A virtual environment with every wheel of the folder, in front of this Python's own packages; its Python."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(root)])
    python = root / "bin" / "python3"
    packages = root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # Not --system-site-packages: of a Python that is itself in a virtual environment that would be its base's.
    seen = [p for p in dict.fromkeys([*site.getsitepackages(), *sys.path]) if p.endswith("-packages")]
    lines = [f"import site; site.addsitedir({place!r})\n" for place in seen]
    (packages / "tritonsmith.pth").write_text("".join(lines))
    names = [wheel.name for wheel in wheels.WHEELS if _has(folder, wheel.name)]
    if not names:
        return str(python)
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    failed = _run([*install, "--no-compile", "--find-links", str(folder), *names])
    if failed is None:
        return str(python)
    _say(f"error[wheels]: pip could not install {', '.join(names)} from {folder}:\n{failed}")
    return None


def _has(folder: Path, name: str) -> bool:
    """Whether the folder has a wheel of that distribution (its name is written with _ in a wheel's)."""
    wanted = name.replace("-", "_").lower()
    return any(path.name.partition("-")[0].lower() == wanted for path in folder.glob("*.whl"))


def _run(command: list[str]) -> str | None:
    """None when it ended well, else the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-1500:]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
