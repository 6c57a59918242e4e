"""What a target cannot load is refused before anything is built."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tritonsmith.builder.actions.compile import CompileOptions
from tritonsmith.builder.base.errors import GateError, ServerError, SpecError, UsageError
from tritonsmith.builder.base.machine.releases import (
    parser_opsets,
    release_from_image,
    release_from_triton_version,
    releases,
    takes_hardware,
    takes_version_compatible,
    tensorrt_of,
    tensorrt_requirement,
)
from tritonsmith.builder.plan.targets import (
    PlannedModel,
    check_target,
    compute_capability_of,
    serving_target,
    target_from_reference,
)
from tritonsmith.builder.spec.spec import Target


def stated(**fields: Any) -> Any:
    return serving_target(Target(**fields))


def plan(**fields: Any) -> PlannedModel:
    return PlannedModel("m", "tensorrt", **fields)


TENSORRT = "10.16.0.72"
H100 = {"tensorrt": TENSORRT, "gpus": ("h100",)}
COMPATIBLE = CompileOptions(version_compatible=True)
SAME_CAPABILITY = CompileOptions(hardware_compatibility="same_compute_capability")
AMPERE_PLUS = CompileOptions(hardware_compatibility="ampere_plus")


@pytest.mark.parametrize(
    ("target", "model", "code"),
    [
        # ONNX Runtime 1.19 of 24.10 ends at opset 21 and IR version 10.
        ({"triton": "24.10"}, PlannedModel("m", "onnxruntime", opset=21, ir_version=10), None),
        ({"triton": "24.10"}, PlannedModel("m", "onnxruntime", opset=22), "target_onnx"),
        ({"triton": "24.10"}, PlannedModel("m", "onnxruntime", ir_version=11), "target_onnx"),
        # A release whose ONNX Runtime is not in the table is not judged.
        ({"triton": "26.10"}, PlannedModel("m", "onnxruntime", opset=99), None),
        # Nothing stated, nothing judged; a backend of the user's own is never missed.
        ({}, PlannedModel("m", "vllm"), None),
        ({"triton": "24.10"}, PlannedModel("m", "vllm"), "target_backend"),
        ({"triton": "24.10"}, PlannedModel("m", "mine"), None),
        # A plan loads on the TensorRT that built it, to the build.
        (H100, plan(tensorrt=TENSORRT), None),
        (H100, plan(tensorrt="10.16.1.11"), "target_tensorrt"),
        (H100, plan(tensorrt="10.16.0.71"), "target_tensorrt"),
        (H100, plan(tensorrt="10.4.0.26"), "target_tensorrt"),
        (H100, plan(tensorrt="10.4.0.26", options=COMPATIBLE), None),
        # A package's version may lack the build; the plan itself is asked when it is made.
        (H100, plan(tensorrt="10.16.0.post1"), None),
        # What the target states must name one build.
        ({"tensorrt": "10.16"}, plan(), "target_tensorrt_unknown"),
        ({"tensorrt": "10.16.0"}, plan(), "target_tensorrt_unknown"),
        # Never on an older one, nor on another major than the next.
        (H100, plan(tensorrt="11.4.0.1", options=COMPATIBLE), "target_tensorrt"),
        ({"tensorrt": "11.4.0.1"}, plan(tensorrt="10.4.0.26", options=COMPATIBLE), None),
        # 25.01's TensorRT is in the table, 26.08's is not and has to be stated.
        ({"triton": "25.01"}, plan(tensorrt="10.8.0.43"), None),
        ({"triton": "25.01"}, plan(tensorrt="10.9.0.34"), "target_tensorrt"),
        ({"triton": "26.08"}, plan(tensorrt=TENSORRT), "target_tensorrt_unknown"),
        ({"triton": "26.08", "tensorrt": TENSORRT}, plan(tensorrt=TENSORRT), None),
        # Several kinds of GPU: an engine for each. Kinds of one capability get one plan, and it must be made for that.
        ({**H100, "gpus": ("h100", "l4", "t4")}, plan(), None),
        ({**H100, "gpus": ("l4", "l40s")}, plan(), "target_hardware"),
        ({**H100, "gpus": ("l4", "l40s")}, plan(options=SAME_CAPABILITY), None),
        ({**H100, "gpus": ("l4", "l40s")}, plan(options=AMPERE_PLUS), None),
        ({**H100, "gpus": ("l4", "NVIDIA L4")}, plan(), None),
        ({**H100, "gpus": ("t4",)}, plan(options=AMPERE_PLUS), "target_hardware"),
        # Volta left TensorRT with 10.5, Blackwell came with 10.8.
        ({**H100, "gpus": ("v100",)}, plan(), "target_gpu"),
        ({"tensorrt": "10.4.0.26", "gpus": ("v100",)}, plan(), None),
        ({"tensorrt": "10.7.0.23", "gpus": ("b200",)}, plan(), "target_gpu"),
        # 26.08 serves compute capability 7.5 and up.
        ({"triton": "26.08", "tensorrt": TENSORRT, "gpus": ("v100",)}, plan(), "target_gpu"),
        # 4-bit floats need Blackwell, 8-bit ones Ada.
        (H100, plan(precision="nvfp4"), "target_precision"),
        ({**H100, "gpus": ("b200",)}, plan(precision="nvfp4"), None),
        (H100, plan(precision="fp8"), None),
        # An engine for 8.0 and up has what 8.0 has.
        (H100, plan(precision="fp8", options=AMPERE_PLUS), "target_precision"),
        (H100, plan(precision="fp8", options=SAME_CAPABILITY), None),
        (H100, plan(precision="bf16", options=AMPERE_PLUS), None),
        ({**H100, "gpus": ("h100", "a10")}, plan(precision="fp8"), "target_precision"),
        ({**H100, "gpus": ("t4",)}, plan(precision="bf16"), "target_precision"),
        ({**H100, "gpus": ("t4",)}, plan(precision="int8"), None),
        (H100, plan(options=CompileOptions(strip=True, refit=True)), "target_stripped"),
        (H100, plan(options=CompileOptions(version_compatible=True, exclude_lean_runtime=True)), "target_lean_runtime"),
    ],
)  # fmt: skip
def test_targets_are_judged(target: dict[str, Any], model: PlannedModel, code: str | None) -> None:
    if code is None:
        check_target(stated(**target), [model])
        return
    with pytest.raises(GateError) as refused:
        check_target(stated(**target), [PlannedModel("fine", "mine"), model])
    assert (refused.value.code, refused.value.exit_code) == (code, 4)
    assert refused.value.message.startswith("m: ")


def test_names_that_are_not_known_get_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"did you mean '26\.08'|valid"):
        stated(triton="26.80")
    with pytest.raises(SpecError, match="did you mean 'h100'"):
        stated(gpus=("h10",))


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("H100", "9.0"),
        ("NVIDIA L40S", "8.9"),
        ("sm86", "8.6"),
        ("12.0", "12.0"),
        ("sm_103", "10.3"),
        # As the driver calls them.
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("Tesla V100-SXM2-16GB", "7.0"),
        ("NVIDIA GeForce RTX 4090", "8.9"),
        ("NVIDIA RTX 6000 Ada Generation", "8.9"),
        ("NVIDIA GH200 480GB", "9.0"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0"),
    ],
)
def test_gpus_by_name_or_number(gpu: str, expected: str) -> None:
    assert compute_capability_of(gpu) == expected


def test_kinds_of_gpus_say_how_many_there_are_to_nobody() -> None:
    """A group on GPU 3 is fine where each server has eight of one kind."""
    assert stated(gpus=("h100",)).target.gpus is None


def test_the_platform_follows_the_gpus() -> None:
    assert stated(gpus=("h100", "l4")).platform == "linux_x86_64"
    assert stated(gpus=("GH200", "gb200")).platform == "linux_aarch64"
    assert stated(gpus=("l4",), platform="linux_aarch64").platform == "linux_aarch64"
    assert stated(triton="26.08").platform is None
    for bad in ({"gpus": ("gh200", "h100")}, {"gpus": ("gb10",), "platform": "linux_x86_64"}):
        with pytest.raises(SpecError) as refused:
            stated(**bad)
        assert refused.value.code == "target_platform"


def test_versions_and_images_lead_to_releases() -> None:
    assert release_from_triton_version("2.51.0") == "24.10"
    assert release_from_triton_version("2.51.0dev") == "24.10"
    assert release_from_triton_version("2.5.0") is None
    for release, row in releases().items():
        if row["triton"]:
            assert release_from_triton_version(row["triton"]) == release
    assert release_from_image("nvcr.io/nvidia/tritonserver:26.08-py3") == ("26.08", "py3")
    assert release_from_image("mirror:5000/triton:25.01-trtllm-python-py3@sha256:ab12") == (
        "25.01",
        "trtllm-python-py3",
    )
    assert release_from_image("26.08") == ("26.08", "py3")
    assert release_from_image("tritonserver:latest") is None
    assert (tensorrt_of("25.01"), tensorrt_of("26.05"), tensorrt_of("25.02", "trtllm-python-py3")) == (
        "10.8.0.43",
        None,
        "10.8.0.43",
    )


def test_pip_is_asked_for_the_build_where_packages_carry_it() -> None:
    assert tensorrt_requirement("10.16.0.72") == "tensorrt==10.16.0.72.*"
    assert tensorrt_requirement("10.8.0.43") == "tensorrt==10.8.0.43.*"
    assert tensorrt_requirement("10.7.0.23") == "tensorrt==10.7.0.*"


def test_opsets_follow_the_parsers_documentation() -> None:
    assert 24 in parser_opsets("10.16.0") and 25 not in parser_opsets("10.16.0")
    assert 25 in parser_opsets("11.4") and parser_opsets() == parser_opsets("11.4")
    assert 8 not in parser_opsets()


def test_compatibility_follows_tensorrts_documentation() -> None:
    assert takes_version_compatible("8.6", "10.0") and not takes_version_compatible("8.5.3", "10.0")
    assert not takes_version_compatible("8.6", "11.0")
    assert takes_version_compatible("10.16.0.72", "10.16") and not takes_version_compatible("10.9", "10.8")
    assert not takes_hardware("8.6", "8.9", "same_compute_capability")


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        version = self.server.version  # type: ignore[attr-defined]
        body = b'{"name":"triton","version":"%s"}' % version.encode() if self.path == "/v2" else b"no JSON"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_live_server_says_its_release(server: Any) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    server.version = "2.54.0"
    target = target_from_reference(url)
    assert (target.release, target.tensorrt, target.onnxruntime) == ("25.01", "10.8.0.43", "1.20.1")
    server.version = "9.9.9"
    with pytest.raises(UsageError, match=r"Triton 9\.9\.9"):
        target_from_reference(url)
    with pytest.raises(ServerError, match="does not answer like a Triton"):
        target_from_reference(url + "/elsewhere")


def test_an_image_says_its_release() -> None:
    target = target_from_reference("nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3")
    assert (target.release, target.image) == ("26.08", "vllm-python-py3")
    assert target_from_reference("nvcr.io/nvidia/tritonserver:26.08-py3-sdk").image == "py3"
    assert target_from_reference("26.08").release == "26.08"
    with pytest.raises(UsageError, match="no Triton release"):
        target_from_reference("nvcr.io/nvidia/tritonserver:latest")
