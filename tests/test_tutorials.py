"""The tutorials run and show what they promise."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.opencl.present import DEVICES, needs_device

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "tutorials"


def run(script: str, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """The output of a tutorial, run in an empty folder."""
    environment = {**os.environ, "MPLCONFIGDIR": str(folder / "matplotlib"), **(environment or {})}
    command = [sys.executable, str(TUTORIALS / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def section(output: str, title: str) -> str:
    """The part of the output below a headline."""
    marker = f"\n{title}\n{'=' * len(title)}\n"
    assert marker in output, f"no section {title!r}"
    return output.split(marker, 1)[1].split("\n===", 1)[0]


def test_every_tutorial_is_tested() -> None:
    assert sorted(p.name for p in TUTORIALS.glob("*.py")) == [
        "01_using_external_libraries.py",
        "02_building_graphs.py",
        "03_library_fusion.py",
        "04_opencl_tuning.py",
        "05_cuda_and_cudnn.py",
        "06_your_own_library.py",
    ]


def test_using_external_libraries(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = run("01_using_external_libraries.py", tmp_path, "--output", str(tmp_path / "figures"))

    assert "%weight: Tensor[(16, 3, 3, 3), float32]" in section(output, "The typed graph")
    sizes = section(output, "Sizes in bytes")
    assert "__fusewire_main__: io 3,813,376, constants 1,856" in sizes
    assert "fused_nn_conv2d_multiply_add_nn_relu: io 3,211,264, constants 0" in sizes

    loops = section(output, "The loop IR of the fused function")
    stores = [line for line in loops.splitlines() if line.strip().startswith("out[")]
    assert stores and all("= max(" in line for line in stores)

    generated = section(output, "Building for cpu")
    assert re.search(r"Using conv2d_\w+\.cpu for nn.conv2d based on highest priority \(10\)", generated)
    assert generated.count("Primitive=1") == 1

    library = section(output, "Building for cpu -libs=onednn")
    assert "Using conv2d_onednn.cpu for nn.conv2d based on highest priority (" in library
    assert library.count("Primitive=1") == 2
    assert 'Compiler="onednn"' in library

    profile = section(output, "Timings")
    assert profile.count("Execution time summary") == 2
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.name == "01_using_external_libraries.png"
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 50_000


def test_library_fusion(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = run("03_library_fusion.py", tmp_path, "--output", str(tmp_path / "figures"))

    ways = section(output, "Who runs what").strip().split("\n\n")
    steps = [[line.split("[")[0].strip() for line in way.splitlines()[1:]] for way in ways[:3]]
    assert steps == [
        ["kernel: nn.conv2d + multiply + add + nn.relu"],
        ["library call: nn.conv2d", "kernel: multiply + add + nn.relu"],
        ["library call: nn.conv2d + multiply + add + nn.relu"],
    ]
    assert section(output, "One call").count("Primitive=1") == 1
    assert section(output, "The chain").count("?") == 8
    refused = section(output, "A step that the library refuses")
    assert "only the slow reference implementation (ref" in refused and "fused_add_nn_relu" in refused
    assert 'Composite="acme.scaled", Compiler="acme", Primitive=1' in section(output, "Partitioned by hand")
    differences = re.findall(r"(\d\.\de[-+]\d+)$", section(output, "Largest difference from float64"), re.MULTILINE)
    assert len(differences) == 3 and max(map(float, differences)) < 1e-5
    assert section(output, "Timings").count(" ms\n") == 3
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.name == "03_library_fusion.png"
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 20_000


def variants_are_shown(output: str) -> None:
    """What the tutorial on tuning shows with and without a device."""
    shown = section(output, "The candidates")
    assert (
        len(re.findall(r"^conv2d_c\dh", shown, re.MULTILINE)) == 7
        and "conv2d_gemm_128x64x16_8x4" in shown
        and "winograd4" in shown
    )
    refused = section(output, "Those that do not fit")
    assert re.search(r"conv2d_1x1_local +the window is not 1x1", refused)
    left, right = section(output, "Two blocks side by side").splitlines()[0].split("|")
    lengths = [int(re.search(r"conv2d_c\dh\dw1, (\d+) lines", side)[1]) for side in (left, right)]  # type: ignore[index]
    assert lengths[1] > 2 * lengths[0] > 0
    assert "vload4" in section(output, "Two blocks side by side")
    product = section(output, "A matrix product instead")
    assert product.count("barrier(CLK_LOCAL_MEM_FENCE)") == product.count("__local float") == 2


def test_opencl_tuning_without_a_device(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = run("04_opencl_tuning.py", tmp_path, "--device", "no such device")
    variants_are_shown(output)
    assert "it ends here" in section(output, "No device")
    assert not list(tmp_path.glob("*.png"))


@needs_device
def test_opencl_tuning(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--device", str(DEVICES[0].index), "--seconds", "3", "--output", str(tmp_path / "figures")]
    output = run("04_opencl_tuning.py", tmp_path, *words)
    variants_are_shown(output)
    raced = section(output, "What the device says")
    assert re.search(r"\d+ trials of \d+ implementations, 0 failed", raced) and raced.count(" us\n") >= 1
    chosen = re.search(r"chosen: +(\w+)\.opencl", section(output, "The chosen one"))
    assert chosen and chosen[1] in raced
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000


def test_cuda_and_cudnn_without_a_device(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    output = run("05_cuda_and_cudnn.py", tmp_path, "--arch", "sm_80", environment=hidden)
    built = section(output, "Building for cuda")
    assert "cuda -keys=cuda,gpu -arch=sm_80 -max_num_threads=1024 -thread_warp_size=32" in built
    assert built.count("Primitive=1") == 1 and re.search(r"Using \w+\.cuda for nn.conv2d based on", built)
    kernel = section(output, "The kernel")
    assert (
        kernel.count("__global__") == 1
        and kernel.count("out[") >= 1
        and "fused_nn_conv2d_multiply_add_nn_relu" in kernel
    )
    library = section(output, "Building for cuda -libs=cudnn")
    assert "Using conv2d_cudnn.cuda for nn.conv2d based on highest priority (25)" in library
    assert library.count("Primitive=1") == 2 and 'Compiler="cudnn"' in library
    assert re.search(r"conv2d_cudnn.cuda \(25\) +chosen", section(output, "Who runs what, and why"))
    assert "__global__" in section(output, "The kernel that is left")
    moved = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", section(output, "Bytes through memory"))]
    image, result, constants = 4 * 3 * 224 * 224, 4 * 16 * 224 * 224, 4 * (16 * 27 + 2 * 16)
    assert moved == [image + result + constants, image + 3 * result + constants]
    assert "library cublas is not used" in section(output, "Building for cuda -libs=cudnn,cublas")
    assert "it ends here" in section(output, "Not here")
    assert not list(tmp_path.glob("**/*.png"))


def test_building_graphs(tmp_path: Path) -> None:
    output = run("02_building_graphs.py", tmp_path)
    assert "bias: Tensor[(4,), float32]" in section(output, "Types found by inference")
    assert "Tensor[(2*n, 8, 16, 16), float32]" in section(output, "Symbolic dimensions")
    assert "flag is true:  [2. 4. 6. 8.]" in section(output, "Let and If")
    assert "structurally equal after a round trip: True" in section(output, "Text")
    assert "nn.batch_norm" not in section(output, "After SimplifyInference")
    assert "sqrt" not in section(output, "After FoldConstant")
    assert section(output, "After FuseOps").count("Primitive=1") == 1
    assert "fused_nn_conv2d_multiply_add_nn_relu_add" in section(output, "With and without fusion")
    assert "nn.relu" in section(output, "A pass made of an ExprMutator")
    assert "erf" in section(output, "A rewrite by pattern")
    assert not list(tmp_path.glob("*.png"))


def test_your_own_library(tmp_path: Path) -> None:
    output = run("06_your_own_library.py", tmp_path)
    built = section(output, "Building for cpu -libs=acme")
    assert built.count("Using dense_acme.cpu for nn.dense based on highest priority (30)") == 3
    assert "refused: what is added is Tensor[(1, 1), float32], expected one float32 for each of 10 units" in built
    right = section(output, "Is it right?")
    assert "calls of acme_dense: 3" in right and "no difference: the results agree" in right
    refused = section(output, "What it refuses")
    assert "library acme is not used: acme.dense: an operand is float64, expected float32" in refused
    assert "-strict: not everything runs where the target asks:" in refused and "(2 times)" in refused
    assert section(output, "Is it faster?").count(" us\n") == 2
    assert 'acme = "acme_fusewire:LIBRARY"' in output
    assert not list(tmp_path.iterdir())


def test_picture_is_small_and_drawn_by_its_script(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    shipped = TUTORIALS / "data" / "landscape.png"
    assert shipped.stat().st_size < 150_000
    target = tmp_path / "again.png"
    subprocess.run([sys.executable, TUTORIALS / "data" / "draw_landscape.py", target], check=True, capture_output=True)
    before, after = (np.asarray(image.open(p).convert("RGB"), dtype=float) for p in (shipped, target))
    assert before.shape == (224, 224, 3)
    # Versions of Pillow may round differently.
    assert np.abs(before - after).mean() < 2
