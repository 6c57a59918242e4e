"""RunResult → the winner's whole config.pbtxt, for repositories that no spec writes; None without a winner."""

from __future__ import annotations

from tritonsmith.builder.base.text.shown import one_line
from tritonsmith.perf.sweep.run_record import RunResult


def winner_pbtxt(run: RunResult) -> str | None:
    """As Triton completed it, without the names that Triton gives to instance groups; the evidence as a comment."""
    if run.verdict.outcome != "winner":
        return None
    from google.protobuf import json_format, text_format

    from tritonsmith.builder.base.triton_proto import model_config_pb2

    arm = next(arm for arm in run.arms if arm.id == run.verdict.arm_id)
    message = model_config_pb2().ModelConfig()
    json_format.ParseDict({**arm.config, "name": run.spec.model}, message, ignore_unknown_fields=True)
    for group in message.instance_group:
        group.ClearField("name")
    started = str(run.environment.get("started", ""))[:10]
    server = (
        f"Triton {run.environment.get('server_version', '?')} {run.environment.get('server', '')}".strip()
    )
    lines = [f"# {run.verdict.sentence}", f"# Measured by tritonsmith sweep on {server}, {started}."]
    if arm.variant:
        lines.append(f"# With the files of {run.spec.variants.get(arm.variant, arm.variant)}.")
    return "\n".join(one_line(line) for line in lines) + "\n" + text_format.MessageToString(message)
