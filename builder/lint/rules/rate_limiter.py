"""Rules about the rate limiter and its resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import groups

_RATE = "core/src/rate_limiter.cc"


@rule(
    "INST013",
    "error",
    "load",
    then="with rate limiting on, the server refuses the model",
    fix="make the resource global everywhere, or nowhere",
    source=f"{_RATE}:1016",
    bad='instance_group [ { rate_limiter { resources { name: "R" global: true count: 1 } } },\n'
    '  { rate_limiter { resources { name: "R" count: 1 } } } ]',
    good='instance_group [ { rate_limiter { resources { name: "R" global: true count: 1 } } },\n'
    '  { rate_limiter { resources { name: "R" global: true count: 1 } } } ]',
)
def resource_global_and_local(model: Model, context: Context) -> Iterator[Hit]:
    """A rate limiter resource is global in one place and bound to a device in another."""
    resources = list(_resources(model))
    if not resources:
        return
    globals_, locals_ = _resource_scopes(context)
    unlimited = context.target.server_args is None or not _limits(context)
    for field, resource in resources:
        other = locals_ if getattr(resource, "global") else globals_
        if resource.name in other:
            yield Hit(
                f"'{resource.name}' is global in one place and not in another",
                f"{field}.name",
                resource.name,
                severity="warning" if unlimited else None,
            )


@rule(
    "INST014",
    "error",
    "load",
    then="the server refuses the model: the resource is never enough",
    fix="ask for less, or raise --rate-limit-resource",
    source=f"{_RATE}:1071",
    bad='instance_group { rate_limiter { resources { name: "R" count: 4 } } }\n'
    "# server started with --rate-limit=execution_count --rate-limit-resource=R:2",
    good='instance_group { rate_limiter { resources { name: "R" count: 2 } } }\n'
    "# server started with --rate-limit=execution_count --rate-limit-resource=R:2",
    needs="server",
)
def resource_above_limit(model: Model, context: Context) -> Iterator[Hit]:
    """A rate limiter resource asks for more than the server has."""
    if not _limits(context):
        return
    limits: dict[tuple[str, bool], int] = {}
    for value in context.target.flag("rate-limit-resource"):
        name, count, device = (*value.split(":"), "", "")[:3]
        if count.isdigit():
            key = (name, device == "global")
            limits[key] = max(limits.get(key, 0), int(count))
    for field, resource in _resources(model) if limits else ():
        # Where the server is given a list, what is not on it is limited to 0.
        limit = limits.get((resource.name, getattr(resource, "global")), 0)
        if resource.count > limit:
            yield Hit(f"'{resource.name}' is limited to {limit}", f"{field}.count", resource.count)


@rule(
    "INST015",
    "warning",
    "silent",
    then="the server does not limit anything",
    fix="start the server with --rate-limit=execution_count, or drop rate_limiter",
    source="server/docs/user_guide/rate_limiter.md:51; seen live on 2.51.0",
    bad='instance_group { rate_limiter { resources { name: "R" count: 1 } } }\n'
    "# server started without --rate-limit",
    good='instance_group { rate_limiter { resources { name: "R" count: 1 } } }\n'
    "# server started with --rate-limit=execution_count",
    needs="server",
)
def rate_limiter_unused(model: Model, context: Context) -> Iterator[Hit]:
    """rate_limiter is given, and the server does not limit rates."""
    if context.target.server_args is None or _limits(context):
        return
    for field, group in groups(model):
        if group.HasField("rate_limiter"):
            yield Hit("the server is started without --rate-limit", f"{field}.rate_limiter", "off")


def _resources(model: Model) -> Iterator[tuple[str, Any]]:
    for field, group in groups(model):
        for index, resource in enumerate(group.rate_limiter.resources):
            yield f"{field}.rate_limiter.resources[{index}]", resource


def _resource_scopes(context: Context) -> tuple[set[str], set[str]]:
    """Names of resources that some model makes global, and of those that some model does not."""
    globals_: set[str] = set()
    locals_: set[str] = set()
    for other in context.repository.models.values():
        for _, resource in _resources(other) if other.config is not None else ():
            (globals_ if getattr(resource, "global") else locals_).add(resource.name)
    return globals_, locals_


def _limits(context: Context) -> bool:
    return "execution_count" in context.target.flag("rate-limit")
