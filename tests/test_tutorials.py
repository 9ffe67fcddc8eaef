"""The tutorials run and show what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "tutorials"


def run(script: str, folder: Path, *arguments: str) -> str:
    """The output of a tutorial, run in an empty folder."""
    environment = {**os.environ, "MPLCONFIGDIR": str(folder / "matplotlib")}
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
    assert sorted(p.name for p in TUTORIALS.glob("*.py")) == ["01_using_external_libraries.py", "02_building_graphs.py"]


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
    assert "Using conv2d_nchw.cpu for nn.conv2d based on highest priority (10)" in generated
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
