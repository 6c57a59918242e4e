"""The GPU check's pure steps: what nvidia-smi says, energy, profiles, copies, outcomes, wheels, the exit code."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import ServerError, ToolError
from tritonsmith.perf.doctor.gpu_check import wheels
from tritonsmith.perf.doctor.gpu_check.run import exit_code_of, text_of
from tritonsmith.perf.doctor.gpu_check.step import Line, MissingError, Outcome, Status, UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.doctor.gpu_check.steps.copies import DTYPES, SIZES, HostMemory, round_trips
from tritonsmith.perf.doctor.gpu_check.steps.engines import profile_lines, real_triton, rtx_refusal
from tritonsmith.perf.doctor.gpu_check.steps.nvidia import energy_of, gpus_from_smi
from tritonsmith.perf.doctor.gpu_check.steps.sessions import CPU, CUDA, mapped, nodes_by_provider, precision
from tritonsmith.perf.doctor.gpu_check.worker import outcome_of


def test_nvidia_smi_is_read_with_units_and_what_it_does_not_tell() -> None:
    text = (
        "0, GPU-1f, NVIDIA H200, 9.0, 580.159.03, 143771, 4, 75.51\n"
        "1, GPU-2e, Odd, with a comma, 7.5, 580.159.03, 16384, [N/A], [Not Supported]\n"
        "No devices were found\n"
    )
    first, second = gpus_from_smi(text)
    assert (first.name, first.compute_capability, first.driver) == ("NVIDIA H200", "9.0", "580.159.03")
    assert (first.memory_total_bytes, first.memory_used_bytes, first.power_w) == (
        143771 << 20,
        4 << 20,
        75.51,
    )
    assert (second.name, second.memory_used_bytes, second.power_w) == ("Odd, with a comma", None, None)
    assert gpus_from_smi("") == ()


@pytest.mark.parametrize(
    ("nvml", "triton", "power", "wrong"),
    [
        ((100.0, 6100.0), (0.0, 6000.0), [600.0, 620.0], []),
        ((100.0, 6100.0), None, [600.0], []),
        ((100.0, 6100.0), (0.0, 3000.0), [600.0], ["Triton's counter"]),
        ((100.0, 6100.0), (0.0, 6000.0), [300.0], ["power × time"]),
        ((100.0, 100.0), (0.0, 0.0), [0.0], ["did not move"]),
    ],
)
def test_energy_of_ten_seconds(nvml: Any, triton: Any, power: list[float], wrong: list[str]) -> None:
    found = energy_of(10.0, nvml, triton, power).disagreements
    assert len(found) == len(wrong)
    assert all(words in line for words, line in zip(wrong, found, strict=True))


def test_nodes_are_counted_once_by_the_provider_that_ran_them() -> None:
    event = {"cat": "Node", "name": "matmul_kernel_time", "args": {"provider": CUDA}}
    others = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "relu_fence_before", "args": {}},
        {"cat": "Node", "name": "relu_kernel_time", "args": {"provider": CPU}},
    ]
    assert nodes_by_provider([event, event, *others]) == {CUDA: 1, CPU: 1}


def test_a_mapped_library_is_found_by_its_file_name() -> None:
    maps = "7f00-7f01 r-xp 0 00:00 1 /x/nvidia/cudnn/lib/libcudnn.so.9\n7f02-7f03 r--p 0 00:00 2 /libcudnn/other.so\n"
    assert mapped("libcudnn", maps) == ["/x/nvidia/cudnn/lib/libcudnn.so.9"]


def test_copies_pass_in_honest_memory_and_a_lost_byte_is_named() -> None:
    assert round_trips(HostMemory())["copies"] == len(DTYPES) * len(SIZES)

    class Lossy(HostMemory):
        def copy_out(self, array: Any, address: int) -> None:
            super().copy_out(array, address)
            if array.nbytes == 2 * 4097:
                ctypes.memset(array.ctypes.data + array.nbytes - 1, 0xFF, 1)

    with pytest.raises(UnexpectedError, match="4097 elements of float16"):
        round_trips(Lossy())


def test_the_bounds_of_the_gate_judge_a_device(tmp_path: Path) -> None:
    found = precision("cpu", tmp_path, "fp16")
    assert isinstance(found, dict)
    assert 0 < found["perceptron"]["relative_l2"] < 1e-2
    assert set(found["perceptron"]["nodes"]) == {CPU}


def test_models_are_the_same_every_time(tmp_path: Path) -> None:
    one, two = (models.perceptron(tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert one == two


def raising(error: Exception) -> Any:
    def call() -> dict[str, Any]:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MissingError("no GPU"), "missing"),
        (UnexpectedError("wrong"), "failed"),
        (ToolError("no docker", code="x"), "missing"),
        (ServerError("it died", code="x"), "failed"),
        (ZeroDivisionError("a bug"), "failed"),
    ],
)
def test_what_a_step_raises_is_its_outcome(error: Exception, status: Status) -> None:
    assert outcome_of(raising(error)).status == status


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["passed", "refused"], 0),
        (["passed", "missing"], 3),
        (["missing", "failed"], 1),
    ],
)
def test_the_exit_code_is_of_the_worst(statuses: list[Status], code: int) -> None:
    lines = [Line(f"step {n}", "gpu", Outcome(s, "because"), 1.0) for n, s in enumerate(statuses)]
    assert exit_code_of(lines) == code
    assert all(status in text_of(lines, 80) for status in statuses)


def test_rtx_is_refused_where_the_matrix_has_no_such_gpu() -> None:
    assert rtx_refusal("8.9") is None and rtx_refusal("12.0") is None
    assert "9.0" in str(rtx_refusal("9.0"))


def test_a_real_triton_is_named_or_missing(tmp_path: Path) -> None:
    (binary := tmp_path / "tritonserver").write_text("")
    assert real_triton(str(binary), None) == ("binary", str(binary))
    if not Path("/opt/tritonserver/bin/tritonserver").is_file():
        with pytest.raises(MissingError, match="TRITON_IMAGE"):
            real_triton(str(tmp_path / "absent"), None)


def test_profiles_are_read_from_tritons_log() -> None:
    line = 'I1129 06:00:00.1 1 instance_state.cc:247] "Optimization profile 1 [1] is selected for plans_0"'
    assert profile_lines(f"{line}\n{line}\nI1129 other\n") == [
        "Optimization profile 1 [1] is selected for plans_0"
    ]


def test_wheels_are_told_with_the_versions_of_the_constraints() -> None:
    pinned = {wheel.requirement for wheel in wheels.WHEELS}
    assert any(requirement.startswith("pydantic==") for requirement in pinned)
    assert {w.name for w in wheels.lacking(False)} <= {w.name for w in wheels.lacking(True)}
    assert "pydantic" not in {w.name for w in wheels.lacking(True)}


def test_wheels_need_nothing_but_the_standard_library() -> None:
    import subprocess

    code = (
        "import sys; import tritonsmith.perf.doctor.gpu_check.__main__; "
        "print([m for m in ('pydantic', 'numpy', 'typer') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=Path(__file__).parents[4], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
