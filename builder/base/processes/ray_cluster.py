"""An address, or none → a Ray cluster that is there, or one of this machine's own for as long as this process."""

from __future__ import annotations

from typing import Any

from tritonsmith.builder.base.errors import ToolError


def connected(address: str | None, **of_cluster: Any) -> Any:
    """The module ray, connected. of_cluster: further options of ray.init where the cluster is there already.

    ToolError when no cluster answers.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    options |= {"include_dashboard": False} if address is None else {"address": address, **of_cluster}
    try:
        ray.init(**options)
    except Exception as error:  # Ray has no one error for a cluster that cannot be reached
        raise ToolError(
            f"no Ray cluster answers at {address or 'this machine'}: {str(error).splitlines()[0][:300]}",
            code="ray_unreachable",
            seen=address,
            fix="ray start --head, then --executor ray:ADDRESS with the address that it prints",
        ) from None
    return ray
