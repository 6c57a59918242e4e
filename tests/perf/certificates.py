"""Certificates of a test's own, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def made_certificate(directory: Path, name: str = "server") -> tuple[Path, Path]:
    """(key, certificate) for 127.0.0.1 and ::1, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the test's certificate")
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=IP:127.0.0.1,IP:::1"], check=True, capture_output=True
    )
    return key, certificate
