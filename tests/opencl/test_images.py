"""Weights of convolutions as read-only images: results, what is stored, and when there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attrs import evolve

import fusewire as fw
from fusewire.ir.errors import DeviceError, VerifyError
from fusewire.ir.scalar import Buffer
from fusewire.targets.backends import backend_of
from fusewire.targets.csource import Emitter
from fusewire.targets.cuda.dialect import CUDA
from fusewire.targets.dialects import C, Dialect
from fusewire.targets.imagetext import image_param
from fusewire.targets.implement import Decision, choose, entries, finish
from fusewire.targets.launched.code import LaunchCode
from fusewire.targets.launched.device import no_images
from fusewire.targets.launches import plan_launches
from fusewire.targets.lower import Problem
from fusewire.targets.opencl.dialect import OPENCL
from fusewire.targets.opencl.queue import opencl_queue
from fusewire.targets.prelude import Prelude
from fusewire.targets.schedules.gpu.table import IMAGE_BLOCKS
from tests.opencl.forced import problems, run_as
from tests.opencl.present import DEVICES, each_device, needs_device
from tests.opencl.test_variants import blocked, conv2d, numbers

Array = npt.NDArray[Any]
VARIANT = "conv2d_image_c8h1w4.cpu"
CONFIG = {"local": 16, "split": 1, "border": 0}
GPU = "opencl -thread_warp_size=32"


def network(x: Array, w: Array, dtype: str = "float32", layout: str = "NCHW") -> fw.Function:
    """A convolution with a border of 1, and a cast."""
    data = fw.var("x", shape=x.shape)
    net = fw.nn.conv2d(data, fw.const(w), kernel_size=w.shape[2:], padding=(1, 1), data_layout=layout)
    return fw.Function([data], fw.cast(net, dtype) if dtype != "float32" else net)


def group(lib: fw.CompiledModule) -> Problem:
    (problem,) = [p for p in problems(lib) if p.anchor is not None]
    return problem


def refusals(problem: Problem) -> set[str | None]:
    return {e.check(problem) for e in entries(problem) if e.name.startswith("conv2d_image_c")}


def with_image(problem: Problem, image: tuple[int, int]) -> Problem:
    """The same for a device that has images of this size at most."""
    assert problem.isa.device is not None
    return evolve(problem, isa=evolve(problem.isa, device=evolve(problem.isa.device, image=image)))


def forced(lib: fw.CompiledModule) -> LaunchCode:
    """The code of a module with its weights as images."""
    backend, isa = backend_of("opencl"), lib.runnable.code.isa
    code = backend.generate(lib.program, isa, 1, lambda problem, function: Decision(VARIANT, CONFIG))
    assert isinstance(code, LaunchCode)
    return code


def text(problem: Problem, dialect: Dialect) -> str:
    """The kernel with weights as images, in a language."""
    (entry,) = [e for e in entries(problem) if e.name == VARIANT]
    plan = plan_launches(finish(entry.schedule(problem, CONFIG)[0], 16))
    emitter = Emitter(Prelude(dialect))
    heads = [emitter.launch("k", launch, plan.kernel.inputs, plan.kernel.params) for launch in plan.launches]
    return emitter.prelude.text([head.text for head in heads]) + "\n".join(head.text for head in heads)


@each_device
def test_half_the_bytes(target: str) -> None:
    x, w = numbers(1, 10, 9, 11), numbers(13, 10, 3, 3)
    lib = fw.build(network(x, w), f"{target} -precision=fp16")
    (image,) = [forced(lib).packed[slot] for slot in forced(lib).read("image")]
    assert image.dtype == np.float16 and image.shape == (2 * 9, 10 * 2, 4)
    (got,) = run_as(lib, Decision(VARIANT, CONFIG), {"x": x})
    # The same sums as with the same weights in a buffer; against the definition, weights are rounded to 11 bits.
    (buffer,) = run_as(lib, Decision(VARIANT.replace("image_", ""), CONFIG), {"x": x})
    np.testing.assert_allclose(got, buffer, rtol=1e-6, atol=1e-6)
    expected = conv2d(x, w, 1, 1, 1)
    assert 1e-5 < np.abs(got - expected).max() / np.abs(expected).max() < 4e-3


@each_device
def test_lanes_beside_float64_are_parts_of_a_texel(target: str) -> None:
    x, w = numbers(1, 8, 6, 7), numbers(8, 8, 3, 3)
    lib = fw.build(network(blocked(x), w, "float64", "NCHW4c"), f"{target} -thread_warp_size=32")
    assert "fw_texel_part2(" in text(group(lib), OPENCL)
    (got,) = run_as(lib, Decision(VARIANT, CONFIG), {"x": blocked(x)})
    np.testing.assert_allclose(got, blocked(conv2d(x, w, 1, 1, 1)), rtol=1e-5, atol=1e-5)


@each_device
def test_modules_share_their_images_and_saved_ones_have_them(target: str, tmp_path: Path) -> None:
    x, w = numbers(1, 5, 6, 7), numbers(9, 5, 3, 3)
    lib = fw.build(network(x, w), target)
    code = forced(lib)
    assert code.packed and not any(code.read("tensor") & code.packed.keys())  # nothing lies there twice
    runnable = evolve(lib.runnable, code=code, arena=backend_of("opencl").plan(lib.program, code))
    made = evolve(lib, runnable=runnable)
    made.save(tmp_path / "m.fw")
    again = fw.load(tmp_path / "m.fw")
    assert isinstance(again.runnable.code, LaunchCode) and again.runnable.code.read("image") == code.read("image")
    for module in (made, again, again):
        np.testing.assert_allclose(module(x=x), conv2d(x, w, 1, 1, 1), rtol=1e-5, atol=1e-5)


@each_device
def test_an_image_that_the_device_refuses_is_an_error_in_words(target: str) -> None:
    queue = opencl_queue(int(target.rpartition("=")[2]))
    wide = queue.session.device.image[0] + 1
    with pytest.raises(DeviceError, match=f"allocating an image of {wide} x 1 texels of float32.*gave INVALID_"):
        queue.image(np.zeros((1, wide, 4), np.float32))


@needs_device
def test_tables_and_texts() -> None:
    assert {b.name for b in IMAGE_BLOCKS} == {
        *(f"image_{n}" for n in ("c4h4w1", "c4h1w4", "c8h4w1", "c8h1w4")),
        *(f"image_1x1_{n}" for n in ("c4h1w4", "c8h1w4")),
    }
    problem = group(fw.build(network(numbers(1, 5, 6, 7), numbers(9, 5, 3, 3)), f"opencl -device={DEVICES[0].index}"))
    source = text(problem, OPENCL)
    assert "__read_only image2d_t" in source and "read_imagef(" in source and "fw_texel_part" not in source
    with pytest.raises(VerifyError, match="CUDA has no images"):
        text(problem, CUDA)
    with pytest.raises(VerifyError, match="C has no images, and w is one"):
        image_param(C, Buffer("w", (1, 1, 4), "float32", "image"))


@needs_device
def test_refusals_have_reasons() -> None:
    x, w = numbers(1, 5, 6, 7), numbers(9, 5, 3, 3)
    problem = group(fw.build(network(x, w), f"opencl -device={DEVICES[0].index}"))
    assert refusals(problem) == {None}
    assert refusals(with_image(problem, (0, 0))) == {"the device has no images, or is not known when this is built"}
    assert refusals(with_image(problem, (10, 27))) == {None}
    most = "texels; an image of the device has 5 x 18 at most"
    narrow = refusals(with_image(problem, (5, 18)))
    assert narrow == {f"weights of 10 x 18 {most}", f"weights of 5 x 27 {most}"}
    given = fw.var("x", shape=x.shape), fw.var("w", shape=w.shape)
    late = group(fw.build(fw.Function(given, fw.nn.conv2d(*given)), f"opencl -device={DEVICES[0].index}"))
    assert refusals(late) == {"the weight is not known at build time"}
    cuda = group(fw.build(network(x, w), "cuda -arch=sm_80"))
    assert refusals(cuda) == {"the device has no images, or is not known when this is built"}


@pytest.mark.parametrize("target", [GPU, "opencl"])
@needs_device
def test_nothing_takes_images_unasked(target: str) -> None:
    """On a CPU they are emulated; on a GPU the same is predicted for buffers, which come first."""
    for shape, window in (((1, 64, 28, 28), 3), ((1, 256, 14, 14), 1), ((1, 4, 40, 40), 5)):
        problem = group(fw.build(network(numbers(*shape), numbers(64, shape[1], window, window)), target))
        assert "image" not in choose(with_image(problem, (16384, 16384)))[0].entry.name


def test_other_devices_say_that_they_have_none() -> None:
    class Device:
        name = "a GPU"

    with pytest.raises(DeviceError, match="an image of 16 bytes on a GPU"):
        no_images(Device(), np.zeros((1, 1, 4), np.float32))  # type: ignore[arg-type]
