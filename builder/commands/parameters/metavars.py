"""A parameter as typer holds it → the word that stands for its value in help."""

from __future__ import annotations

from enum import Enum
from typing import Any, get_args

BY_NAME = {
    "arm": "ARM",
    "batch_size": "ROWS",
    "budget": "DURATION",
    "cache_size": "BYTES",
    "concurrency": "N,N",
    "data": "PATH",
    "dollars_per_hour": "DOLLARS",
    "duration": "DURATION",
    "every": "DURATION",
    "executor": "local|ray|ray:ADDRESS",
    "find_links": "DIR|URL",
    "goodput": "[LIMIT=]DURATION",
    "gpus": "N",
    "grpc_port": "PORT",
    "grpc_url": "HOST:PORT",
    "header": "NAME:VALUE",
    "http_port": "PORT",
    "ignore": "RULE,RULE",
    "load_model": "MODEL",
    "margin": "SHARE",
    "max_failures": "SHARE",
    "max_p99": "DURATION",
    "max_size": "SIZE",
    "max_wrong": "SHARE",
    "memory": "SIZE",
    "metrics_port": "PORT",
    "metrics_url": "HOST:PORT",
    "model": "MODEL",
    "models": "MODEL",
    "older_than": "DURATION",
    "output_shared_memory_size": "BYTES",
    "ramp": "DURATION",
    "range_": "NAME:LOW..HIGH",
    "reload_timeout": "SECONDS",
    "remote_cache": "DIR|URL",
    "repeat": "pool|SHARE|zipf:S:N",
    "repository": "DIR",
    "request_parameter": "NAME:VALUE:TYPE",
    "request_rate": "PER_SECOND",
    "request_timeout": "DURATION",
    "select": "RULE,RULE",
    "sequence_length": "LENGTH",
    "server_args": "ARGS",
    "shape": "NAME:D1,D2",
    "slo_p99": "DURATION",
    "step": "LOAD:DURATION",
    "sweep_model": "MODEL",
    "timeout": "DURATION",
    "target": "RELEASE|URL",
    "templates": "DIR",
    "variants": "DIR",
    "version": "VERSION",
    "watch_port": "PORT",
    "warmup": "DURATION",
}
"""Of a parameter with one of these names, whatever command it is of; what a command says itself comes first."""

BY_TYPE = {"path": "PATH", "int": "N", "float": "NUMBER", "str": "TEXT"}


def metavar_of(parameter: Any) -> str | None:
    """Its word; None for a flag, which takes no value."""
    if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
        return None
    if parameter.metavar is not None:
        return str(parameter.metavar).rstrip("…")
    kind, choices = type_of(parameter)
    if choices:
        return "|".join(choices)
    word = BY_NAME.get(parameter.name, BY_TYPE[kind])
    if kind == "int":  # one number where another command takes a list of them
        word = word.partition(",")[0]
    # Seconds as a number and a time with its unit are written in different ways.
    return "SECONDS" if word == "DURATION" and kind == "float" else word


def type_of(parameter: Any) -> tuple[str, tuple[str, ...]]:
    """(key of BY_TYPE, the choices if there are any): of one of its values where it takes several."""
    described = getattr(parameter, "type_descriptor", None)
    if described is None:  # before typer 0.2x
        kind = parameter.type
        choices = getattr(kind, "choices", ())
        name = {"path": "path", "integer": "int", "float": "float"}.get(kind.name.split()[0], "str")
    else:
        choices = described.choices or ()
        annotation = next(iter(get_args(described.annotation)), described.annotation)
        name = {"int": "int", "float": "float"}.get(getattr(annotation, "__name__", ""), "str")
        name = "path" if described.is_path or getattr(annotation, "__name__", "") == "Path" else name
    return name, tuple(str(c.value) if isinstance(c, Enum) else str(c) for c in choices)
