"""A Hugging Face model with its head (config.json, safetensors) → torch.export, dynamic batch and sequence → model.onnx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.callables import one_line
from tritonsmith.builder.actions.export.sources.torch import export_returned
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_numpy
from tritonsmith.builder.llm.weights import GENERATES

if TYPE_CHECKING:
    import torch

    from tritonsmith.builder.actions.accuracy.samples import Array

SEQUENCE = "sequence"
_USUAL_TOKENS = 128
_UNBOUNDED_TOKENS = 512
"""Promised of a model that states no largest number of positions (relative ones, say)."""

# End of an architecture's name → task; the class of transformers that holds the head.
HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "Model": "feature-extraction",
}
_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "feature-extraction": "AutoModel",
}
OUTPUTS = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "image-classification": ("logits",),
    "feature-extraction": ("last_hidden_state",),
}
_GENERATES = (
    *GENERATES,
    "ForSeq2SeqLM",
    "ForSpeechSeq2Seq",
    "ForVision2Seq",
)


def export_pretrained(request: ExportRequest, out_dir: Path) -> Exported:
    """input_ids, attention_mask (and token_type_ids where the model has several) int64 [batch, sequence], or pixel_values
    → logits; start_logits and end_logits; last_hidden_state, or with pooling embeddings [batch, hidden].

    No code of the model's own is run. ExportError: no_model, model_unreachable, task, generation, head_missing, pooling,
    and those of a torch source.
    """
    directory = _directory(request.reference)
    config = _config(directory)
    architecture = next(iter(getattr(config, "architectures", None) or ()), "")
    where = Where(directory / "config.json")
    task = request.options.get("task") or task_of(architecture, where)
    pooling = request.options.get("pooling")
    if task != "feature-extraction" and (pooling or request.options.get("normalize")):
        raise ExportError(
            "pooling and normalize belong to feature-extraction", code="pooling", where=where, seen=task
        )
    if request.options.get("normalize") and not pooling:
        raise ExportError(
            "normalize needs pooling", code="pooling", where=where, valid=("pooling: mean", "pooling: cls")
        )
    if getattr(config, "is_encoder_decoder", False):
        raise _generates(architecture or config.model_type, where)
    network = _network(directory, task, config, where)
    if task == "image-classification":
        returned, asked, rows = _image(network, config, request)
    else:
        returned, asked, rows = _text(network, config, request, OUTPUTS[task], pooling)
    exported = export_returned(asked, out_dir, returned, directory / "config.json")
    return replace(exported, rows=rows, example=None, dependencies=_files(directory))


def task_of(architecture: str, where: Where) -> str:
    """The task of an architecture's head; ExportError generation, task."""
    if architecture.endswith(_GENERATES):
        raise _generates(architecture, where)
    for ending, task in HEADS.items():
        if architecture.endswith(ending):
            return task
    raise ExportError(
        "the model's architecture names no task that can be exported",
        code="task",
        where=where,
        seen=architecture or "no architecture",
        valid=list(_CLASSES),
        fix="source: {transformers: …, task: feature-extraction}, or another of its tasks",
    )


def _generates(architecture: str, where: Where) -> ExportError:
    return ExportError(
        "the model generates: each token is a run of its own with a cache that grows, which one ONNX file cannot hold",
        code="generation",
        where=where,
        seen=architecture,
        valid=list(_CLASSES),
        fix=f"source: {{llm: {where.path.parent}}} serves it with Triton's vllm or tensorrtllm backend; of a decoder "
        "alone task: feature-extraction exports the hidden states",
    )


def _directory(reference: str) -> Path:
    """The model's own directory, or that of the named model in the hub's cache."""
    path = Path(reference)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ExportError(
                "the directory holds no Hugging Face model: it has no config.json",
                code="no_model",
                where=Where(path),
                seen=sorted(p.name for p in path.iterdir())[:8],
            )
        return path
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(reference, allow_patterns=["*.json", "*.safetensors", "pytorch_model*.bin"])
    except Exception as error:
        raise ExportError(
            "there is no such directory, and the model could not be fetched from the hub",
            code="model_unreachable",
            seen=f"{reference}: {one_line(error)[:200]}",
            fix=f"where there is a network: hf download {reference} --local-dir DIRECTORY; then "
            "source: {transformers: DIRECTORY}",
        ) from error
    return Path(found)


def _config(directory: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ExportError(
            f"transformers does not know the model: {one_line(error)[:300]}",
            code="no_model",
            where=Where(directory / "config.json"),
            fix="a model that brings code of its own is refused: write the module yourself, source: {torch: module:callable}",
        ) from error


def _network(directory: Path, task: str, config: Any, where: Where) -> Any:
    """The network in float32 with every weight of the head from the file; no head is ever made up."""
    import torch
    import transformers

    try:
        network, info = getattr(transformers, _CLASSES[task]).from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            weights_only=True,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:
        raise ExportError(
            f"transformers cannot load it for {task}: {one_line(error)[:300]}", code="no_model", where=where
        ) from error
    # Of feature-extraction the pooler is not used; checkpoints of other heads lack it.
    missing = [
        k for k in info["missing_keys"] if not (task == "feature-extraction" and k.startswith("pooler."))
    ]
    if missing or info.get("mismatched_keys"):
        raise ExportError(
            f"the file lacks weights that {task} needs; transformers would fill them with random values",
            code="head_missing",
            where=where,
            seen=", ".join(sorted(map(str, missing or info["mismatched_keys"]))[:4]),
            fix="task: the one that the model was trained for",
        )
    return network.eval()


def _files(directory: Path) -> tuple[Path, ...]:
    weights = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    return (directory / "config.json", *sorted(directory.glob("*.index.json")), *weights)


_Rows = Callable[[int, Any], "dict[str, Array]"]


def _text(
    network: Any, config: Any, request: ExportRequest, outputs: tuple[str, ...], pooling: str | None
) -> tuple[Any, ExportRequest, _Rows]:
    import torch

    module = _text_module(network, outputs, pooling, bool(request.options.get("normalize")))
    largest = _positions(network, config)
    names = ["input_ids", "attention_mask"]
    if getattr(config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    if not request.inputs:
        tokens = dtype_from_numpy("int64")
        request = replace(
            request,
            inputs=tuple(TensorSpec(name, tokens, ("batch", SEQUENCE)) for name in names),
            dynamic_dims={SEQUENCE: (1, min(_USUAL_TOKENS, largest), largest), **request.dynamic_dims},
        )
    length = min(16, largest)
    ids = torch.randint(
        0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(request.seed)
    )
    example = dict.fromkeys(names, torch.ones_like(ids)) | {"input_ids": ids}
    rows = _text_rows(request, names, config, largest)
    stated = request.inputs[0].shape
    fixed = stated[1] if len(stated) == 2 and isinstance(stated[1], int) and stated[1] > 0 else None
    if fixed is not None:
        example = {name: value[:, :1].repeat(1, fixed) for name, value in example.items()}
    elif isinstance(stated[-1], str) and stated[-1] in request.dynamic_dims:
        low, _, high = request.dynamic_dims[stated[-1]]
        size = min(max(length, low), high)
        example = {name: value[:, :1].repeat(1, size) for name, value in example.items()}
    return (module, example), request, rows


def _text_module(network: Any, outputs: tuple[str, ...], pooling: str | None, normalize: bool) -> Any:
    import torch

    class Text(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
        ) -> Mapping[str, torch.Tensor]:
            kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            answer = self.network(
                input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kinds
            )
            if pooling is None:
                return {name: answer[name] for name in outputs}
            hidden = answer.last_hidden_state
            if pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = attention_mask.to(hidden.dtype).unsqueeze(-1)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return {"embeddings": torch.nn.functional.normalize(pooled, dim=1) if normalize else pooled}

    if hasattr(network.config, "use_cache"):
        network.config.use_cache = False
    return Text()


def _positions(network: Any, config: Any) -> int:
    """The most tokens of a text; where padding takes positions (RoBERTa), those are not the text's."""
    largest = int(getattr(config, "max_position_embeddings", 0) or 0)
    if largest <= 0:
        return _UNBOUNDED_TOKENS
    tables = [m.position_embeddings for m in network.modules() if hasattr(m, "position_embeddings")]
    paddings = [t.padding_idx for t in tables if getattr(t, "padding_idx", None) is not None]
    return largest - max((p + 1 for p in paddings), default=0)


def _text_rows(request: ExportRequest, names: list[str], config: Any, largest: int) -> _Rows:
    """Texts of different length in one request, padded to the longest as a tokenizer does."""
    import numpy as np

    stated = {tensor.name: tensor.shape for tensor in request.inputs}.get("input_ids", ("batch", SEQUENCE))
    dim = stated[-1]
    low, _, high = request.dynamic_dims.get(str(dim), (1, 1, largest))
    pad = config.pad_token_id if getattr(config, "pad_token_id", None) is not None else 0

    def rows(count: int, rng: Any) -> dict[str, Array]:
        longest = (
            dim if isinstance(dim, int) and dim > 0 else int(rng.integers(low, min(high, max(low, 48)) + 1))
        )
        lengths = rng.integers(1, longest + 1, count)
        lengths[0] = longest
        mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(0, config.vocab_size - 1, (count, longest))
        ids += ids >= pad
        kinds = (np.arange(longest) >= lengths[:, None] // 2).astype(np.int64) * mask
        values = {
            "input_ids": np.where(mask == 1, ids, pad).astype(np.int64),
            "attention_mask": mask,
            "token_type_ids": kinds,
        }
        return {name: values[name] for name in names}

    return rows


def _image(network: Any, config: Any, request: ExportRequest) -> tuple[Any, ExportRequest, _Rows]:
    import numpy as np
    import torch

    class Image(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: torch.Tensor) -> Mapping[str, torch.Tensor]:
            return {"logits": self.network(pixel_values=pixel_values, return_dict=True).logits}

    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    shape = (int(getattr(config, "num_channels", 3)), int(height), int(width))
    if not request.inputs:
        pixels = TensorSpec("pixel_values", dtype_from_numpy("float32"), ("batch", *shape))
        request = replace(request, inputs=(pixels,))
    example = {"pixel_values": torch.zeros(2, *shape)}
    return (
        (Image(), example),
        request,
        lambda count, rng: {"pixel_values": rng.normal(size=(count, *shape)).astype(np.float32)},
    )
