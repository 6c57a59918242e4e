"""`tritonsmith schema`: the JSON Schema of models.yaml on stdout."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of models.yaml, for editors.

    With the YAML language server: tritonsmith schema > models.schema.json, and
    `# yaml-language-server: $schema=models.schema.json` as the first line of models.yaml.

    Examples: tritonsmith schema
              tritonsmith schema > models.schema.json
    """
    from tritonsmith.builder.base.text.console import emit_json
    from tritonsmith.builder.spec.json_schema import json_schema

    emit_json(json_schema())
