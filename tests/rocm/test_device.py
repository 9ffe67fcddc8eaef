"""What rocm says of devices, and the launch of a kernel, on a library that stands in for the HIP runtime.

None of this has run on a GPU.
"""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.errors import DeviceError
from fusewire.targets.launched import gpu
from fusewire.targets.launched.device import Launch
from fusewire.targets.launched.engine import LaunchEngine
from fusewire.targets.launched.selftest import SelfTest
from fusewire.targets.program import KernelStep
from fusewire.targets.rocm import device, hiprtc
from tests.launched.sources import block


class Runtime:
    """Functions of the runtime by name; those that are not given succeed and do nothing."""

    def __init__(self, **given: Callable[..., int]) -> None:
        self.given, self.calls = given, list[tuple[str, tuple[Any, ...]]]()

    def hipGetErrorString(self, status: int) -> bytes:
        return b"hipErrorUnknown"

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            return self.given[name](*arguments) if name in self.given else 0

        return call


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    device.rocm_device.cache_clear()
    yield
    device.rocm_device.cache_clear()


def stored(kind: type[Any], value: int) -> Callable[..., int]:
    def call(place: Any, *rest: Any) -> int:
        ctypes.cast(place, ctypes.POINTER(kind))[0] = value
        return 0

    return call


def use(monkeypatch: pytest.MonkeyPatch, **given: Callable[..., int]) -> Runtime:
    found = Runtime(hipGetDeviceCount=stored(ctypes.c_int, 1), **given)
    monkeypatch.setattr(device, "runtime", lambda: found)
    return found


def test_without_rocm_there_is_all_but_running(monkeypatch: pytest.MonkeyPatch) -> None:
    device.runtime.cache_clear()
    hiprtc.hiprtc.cache_clear()
    monkeypatch.setattr(device, "rocm_library", lambda name: None)
    monkeypatch.setattr(hiprtc, "rocm_library", lambda name: None)
    lib = fw.build(block(), "rocm -arch=gfx90a")
    assert "__ocml" in lib.get_source(kind="hip") and "__builtin_amdgcn_workgroup_id_x" in lib.get_source()
    with pytest.raises(fw.DeviceNotFound, match=r"libamdhip64.so.*install ROCm"):
        lib["default"](fw.device("rocm"))
    with pytest.raises(fw.DeviceNotFound, match="HIPRTC, which is not installed: install ROCm"):
        hiprtc.hiprtc()


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "runtime", lambda: Runtime(hipGetDeviceCount=lambda place: 100))
    with pytest.raises(fw.DeviceNotFound, match=r"counting devices: hipGetDeviceCount gave 100 \(hipErr"):
        device.count()
    monkeypatch.setattr(device, "runtime", lambda: Runtime(hipGetDeviceCount=stored(ctypes.c_int, 0)))
    with pytest.raises(fw.DeviceNotFound, match="finds none"):
        device.count()


def test_the_system_tells_architectures(tmp_path: Path) -> None:
    for number, version in enumerate((0, 90010, 110000, 100302)):
        (tmp_path / str(number)).mkdir()
        text = f"cpu_cores_count 8\nsimd_count 440\nsimd_per_cu 4\ngfx_target_version {version}\n"
        (tmp_path / str(number) / "properties").write_text(text)
    assert device.topology(tmp_path) == [("gfx90a", 110), ("gfx1100", 110), ("gfx1032", 110)]
    assert device.topology(tmp_path / "nowhere") == []


def properties(arch: bytes) -> Callable[..., int]:
    """What fills hipDeviceProp_t of ROCm 6, where gcnArchName stands at byte 1160."""

    def fill(place: Any, index: int) -> int:
        ctypes.memmove(place, b"gfxtron 3000", 12)  # a name
        ctypes.memmove(ctypes.addressof(place) + 1160, arch, len(arch))
        return 0

    return fill


@pytest.mark.parametrize("function", ["hipGetDevicePropertiesR0600", "hipGetDeviceProperties"])
def test_the_runtime_tells_architectures_whatever_devices_it_shows(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with HIP_VISIBLE_DEVICES=1: the system's first node is another device."""
    other = {"hipGetDevicePropertiesR0600": lambda *given: 1} if function == "hipGetDeviceProperties" else {}
    use(monkeypatch, **other, **{function: properties(b"gfx90a:sramecc+:xnack-")})
    monkeypatch.setattr(device, "topology", lambda: [("gfx1100", 48), ("gfx90a", 110)])
    found = device.rocm_device(0)
    assert (found.arch, found.units) == ("gfx90a", 110)
    device.rocm_device.cache_clear()
    use(monkeypatch)  # a runtime that says nothing of it: two nodes may be in any order
    assert device.rocm_device(0).arch == ""


def test_wavefronts_must_be_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, hipGetDevicePropertiesR0600=properties(b"gfx1100"))
    monkeypatch.setattr(gpu, "tested", lambda *given: SelfTest(None, 0.0))
    with pytest.raises(
        DeviceError, match=r"made for 64 items in lockstep, and .* \(gfx1100\) has 32: build for -arch="
    ):
        fw.build(block(), "rocm")["default"](fw.device("rocm"))
    for target in ("rocm -arch=gfx1100", "rocm -thread_warp_size=32"):
        assert fw.build(block(), target)["default"](fw.device("rocm")).device == fw.device("rocm")


def test_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    monkeypatch.setattr(device, "topology", lambda: [("gfx90a", 110)])
    found = device.rocm_device(0)
    assert found.arch == found.arch_for(None) == found.arch_for("gfx90a") == "gfx90a" and found.units == 110
    with pytest.raises(DeviceError, match="made for gfx1100, and the device is gfx90a"):
        found.arch_for("gfx1100")
    device.rocm_device.cache_clear()
    monkeypatch.setattr(device, "topology", list)
    with pytest.raises(DeviceError, match="does not say its architecture"):
        device.rocm_device(0).arch_for(None)
    with pytest.raises(fw.DeviceNotFound, match="no ROCm device 1; there are 1"):
        device.rocm_device(1)


def test_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def launched(function: Any, *given: Any) -> int:
        table = given[8]
        seen.append((given[:7], [ctypes.cast(table[k], ctypes.POINTER(ctypes.c_int64))[0] for k in range(3)]))
        return 0

    found = use(monkeypatch, hipModuleLaunchKernel=launched, hipMalloc=stored(ctypes.c_void_p, 4096))
    found_gpu = device.rocm_device(0)
    memory = found_gpu.allocate(100, "a test")
    found_gpu.launch(Launch("k", ctypes.c_void_p(5), 7, 64, (memory.address, -1, 1 << 40)))
    assert seen == [((7, 1, 1, 64, 1, 1, 0), [4096, -1, 1 << 40])]
    found_gpu.write(memory.address, np.zeros(5, np.float32))
    (copy,) = [given for name, given in found.calls if name == "hipMemcpyAsync"]
    assert copy[0].value == 4096 and copy[2].value == 20 and copy[3] == 1
    assert found.calls[-1][0] == "hipStreamSynchronize"
    del memory
    assert found.calls[-1][0] == "hipFree"


@pytest.mark.parametrize(("most", "expected"), [("", 256), ("-max_num_threads=128", 128)])
def test_open_work_groups_keep_to_the_target(most: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the text, in what the compiler is told, and in launches."""
    told: list[str] = []

    def compiled(made: Any, files: list[tuple[str, str]], options: list[str], driver: str) -> list[bytes]:
        told.extend(options)
        return [b""] * len(files)

    memory = stored(ctypes.c_size_t, 1 << 34)
    use(monkeypatch, hipMalloc=stored(ctypes.c_void_p, 4096), hipDeviceTotalMem=memory)
    monkeypatch.setattr(device, "topology", lambda: [("gfx90a", 110)])
    monkeypatch.setattr(device, "hiprtc", lambda: None)
    monkeypatch.setattr(device, "compile_all", compiled)
    lib = fw.build(fw.cumsum(fw.var("x", shape=(2048, 4)), axis=1), f"rocm -arch=gfx90a {most}")
    engine = LaunchEngine(lib.runnable, device.rocm_device(0), "gfx90a")
    launches = engine.launches([step for step in lib.program.leaf_steps() if isinstance(step, KernelStep)])
    assert [(launch.local, launch.groups) for launch in launches] == [(expected, 2048 // expected)]
    assert f"#define FW_LOCAL {expected}\n" in lib.get_source() and f"-DFW_LOCAL={expected}" in told


def test_errors_name_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, hipMalloc=lambda place, size: 2, hipModuleLaunchKernel=lambda *given: 1)
    one = device.rocm_device(0)
    with pytest.raises(DeviceError, match="allocating 100 bytes for a test: the device has not enough memory"):
        one.allocate(100, "a test")
    with pytest.raises(DeviceError, match=r"launching the kernel k on .*hipModuleLaunchKernel gave 1"):
        one.launch(Launch("k", ctypes.c_void_p(5), 1, 64, ()))
