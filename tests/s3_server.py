"""An S3 server of moto's in a process of its own, on 127.0.0.1."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "2",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """The server's URL; it ends with the block."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    child = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert child.stderr is not None
    try:
        for line in child.stderr:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                break
        else:
            raise RuntimeError("moto's server did not start")
        # Whoever logs must be read, or the server stops when the pipe is full.
        reader = subprocess.Popen(["cat"], stdin=child.stderr, stdout=subprocess.DEVNULL)
        try:
            yield found.group(0)
        finally:
            child.kill()
            child.wait()
            with suppress(subprocess.TimeoutExpired):
                reader.wait(5)
    finally:
        child.kill()
        child.wait()


def make_bucket(url: str, name: str) -> None:
    """Makes a bucket on the server."""
    import boto3

    boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    ).create_bucket(Bucket=name)
