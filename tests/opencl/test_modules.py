"""Modules on OpenCL devices: inputs and outputs, branches, errors in words, the cache of programs."""

import logging
import threading
import uuid
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.errors import DeviceError
from fusewire.targets.launched.code import LaunchCode
from fusewire.targets.opencl import runtime
from fusewire.targets.opencl.devices import all_devices, find, pyopencl
from fusewire.targets.opencl.queue import OpenclQueue
from tests.opencl.present import each_device

Array = npt.NDArray[Any]


def module_of(expr: fw.Expr, target: str) -> fw.GraphModule:
    lib = fw.build(expr, target)
    return fw.GraphModule(lib["default"](fw.device("opencl")))


def affine(shape: tuple[int, ...] = (3, 37)) -> fw.Expr:
    return fw.nn.relu(fw.add(fw.multiply(fw.var("x", shape=shape), fw.const(2.0)), fw.const(-1.0)))


def status(call: str, name: str) -> Any:
    """What pyopencl puts into its errors."""
    cl = pyopencl()
    return cl._cl._ErrorRecord(msg="", code=getattr(cl.status_code, name), routine=call)


@each_device
class TestRunning:
    def test_inputs_and_outputs(self, target: str) -> None:
        x = np.random.default_rng(0).uniform(-1, 1, (3, 37)).astype(np.float32)
        module = module_of(affine(), target)
        with pytest.raises(fw.RuntimeInputError, match="inputs not set: 'x'"):
            module.run()
        module.set_input("x", x)
        module.run()
        expected = np.maximum(x * 2 - 1, 0)
        np.testing.assert_allclose(module.get_output(0).numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(module.get_input("x").numpy(), x)
        module.run(x=-x)
        np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(-x * 2 - 1, 0), atol=1e-6)
        with pytest.raises(fw.RuntimeInputError, match="float64"):
            module.set_input("x", x.astype(np.float64))

    def test_arrays_of_the_device(self, target: str) -> None:
        """pyopencl's arrays are copied on the device, or used where they lie."""
        array = pytest.importorskip("pyopencl.array")
        module = module_of(affine(), target)
        session = runtime.session(find(fw.Target(target).device).index)
        x = np.random.default_rng(1).uniform(-1, 1, (3, 37)).astype(np.float32)
        given = array.to_device(session.queue, x)
        module.set_input("x", given)
        given.fill(0)
        module.run()
        np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(x * 2 - 1, 0), atol=1e-6)
        given.set(-x)
        module.set_input_zero_copy("x", given)
        module.run()
        np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(-x * 2 - 1, 0), atol=1e-6)
        given.set(x)
        module.run()  # the module reads the array where it lies
        np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(x * 2 - 1, 0), atol=1e-6)
        module.set_input("x", -x)
        module.run()
        np.testing.assert_array_equal(given.get(), x)
        with pytest.raises(fw.RuntimeInputError, match="was given float32 of shape"):
            module.set_input("x", array.to_device(session.queue, x[:2]))

    def test_arrays_that_are_still_being_filled(self, target: str) -> None:
        """What another queue writes into an array is waited for, whether it is copied or used where it lies."""
        array, cl = pytest.importorskip("pyopencl.array"), pyopencl()
        module = module_of(affine(), target)
        session = runtime.session(find(fw.Target(target).device).index)
        x = np.random.default_rng(1).uniform(-1, 1, (3, 37)).astype(np.float32)
        for take in (module.set_input, module.set_input_zero_copy):
            given, written = array.to_device(session.queue, x), cl.UserEvent(session.context)
            session.queue.finish()
            given.add_event(written)

            def write(given: Any = given, written: Any = written) -> None:
                cl.enqueue_copy(cl.CommandQueue(session.context), given.base_data, -x, is_blocking=True)
                written.set_status(cl.command_execution_status.COMPLETE)

            timer = threading.Timer(0.2, write)
            timer.start()
            take("x", given)
            module.run()
            timer.join()
            np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(-x * 2 - 1, 0), atol=1e-6)

    def test_a_shared_array_under_another_shape(self, target: str) -> None:
        """What shows an input, or copies it, goes by the array that the input was let be."""
        array = pytest.importorskip("pyopencl.array")
        x = fw.var("x", shape=(3, 37))
        module = module_of(fw.Tuple([fw.reshape(x, (37, 3)), x, fw.exp(fw.reshape(x, (111,)))]), target)
        data = np.random.default_rng(3).uniform(-1, 1, (3, 37)).astype(np.float32)
        module.set_input("x", -data)
        module.run()
        module.set_input_zero_copy("x", array.to_device(fw.command_queue(target), data))
        module.run()
        for k, expected in enumerate((data.reshape(37, 3), data)):
            np.testing.assert_array_equal(module.get_output(k).numpy(), expected)
        np.testing.assert_allclose(module.get_output(2).numpy(), np.exp(data).reshape(-1), rtol=1e-6)

    def test_there_is_one_queue_for_a_device(self, target: str) -> None:
        assert fw.command_queue(target) is fw.command_queue(fw.Target(target))
        with pytest.raises(fw.TargetError, match="expected a target of kind opencl, got 'cpu -keys=cpu'"):
            fw.command_queue("cpu")

    def test_arrays_of_the_device_with_gaps_or_without_a_queue(self, target: str) -> None:
        array = pytest.importorskip("pyopencl.array")
        module = module_of(affine(), target)
        x = np.random.default_rng(2).uniform(-1, 1, (3, 37)).astype(np.float32)
        context = pyopencl().Context([find(fw.Target(target).device).raw])
        queue = pyopencl().CommandQueue(context)
        module.set_input("x", array.to_device(queue, x).with_queue(None))
        module.run()
        np.testing.assert_allclose(module.get_output(0).numpy(), np.maximum(2 * x - 1, 0), rtol=1e-6)
        wide = array.to_device(queue, np.repeat(x, 2, axis=1))
        with pytest.raises(fw.FusewireError, match="must be contiguous, got strides"):
            module.set_input("x", wide[:, ::2])

    def test_a_lane_that_is_huge_does_not_disturb_its_neighbours(self, target: str) -> None:
        x = np.full(64, 1e-3, np.float32)
        x[::7] = 1e10, np.inf, -3e20, 2, 1e-45, np.nan, -1e10, 5, 1e30, 0
        for op, reference in ((fw.sin, np.sin), (fw.cos, np.cos), (fw.tan, np.tan)):
            module = module_of(op(fw.var("x", shape=(64,))), target)
            module.run(x=x)
            got, small = module.get_output(0).numpy(), np.abs(x) < 10
            np.testing.assert_allclose(got[small], reference(x[small].astype(np.float64)), rtol=1e-5)

    def test_arrays_by_dlpack(self, target: str) -> None:
        class Host:
            """What another framework gives: an array that can only be had through DLPack."""

            def __init__(self, array: Array) -> None:
                self.array = array

            def __dlpack__(self, **options: Any) -> Any:
                return self.array.__dlpack__(**options)

            def __dlpack_device__(self) -> Any:
                return self.array.__dlpack_device__()

        x = np.random.default_rng(4).uniform(-1, 1, (3, 37)).astype(np.float32)
        lib = fw.build(affine(), target)
        np.testing.assert_allclose(lib(x=Host(x)), np.maximum(x * 2 - 1, 0), atol=1e-6)
        with pytest.raises(fw.RuntimeInputError, match="was given float32 of shape"):
            lib(x=Host(x[:2]))

    def test_a_branch_that_gives_a_constant(self, target: str) -> None:
        flag, values = fw.var("flag", shape=(), dtype="bool"), np.arange(3, dtype=np.float32)
        lib = fw.build(fw.Function([flag], fw.If(flag, fw.const(values), fw.const(-values))), target)
        for yes, expected in ((True, values), (False, -values)):
            np.testing.assert_array_equal(lib(flag=np.array(yes)), expected)

    def test_branches_copies_views_and_nothing(self, target: str) -> None:
        x, flag = fw.var("x", shape=(4, 6)), fw.var("flag", shape=(), dtype="bool")
        none = fw.var("none", shape=(0, 3))
        branch = fw.If(flag, fw.tanh(x), fw.nn.softmax(x))
        outputs = [branch, x, fw.reshape(fw.exp(x), (6, 4)), fw.negative(none), fw.sum(none, axis=0)]
        lib = fw.build(fw.Function([x, flag, none], fw.Tuple(outputs)), target)
        data = np.random.default_rng(2).uniform(-1, 1, (4, 6)).astype(np.float32)
        for yes in (True, False):
            got = lib(x=data, flag=np.array(yes), none=np.zeros((0, 3), np.float32))
            soft = np.exp(data) / np.exp(data).sum(-1, keepdims=True)
            np.testing.assert_allclose(got[0], np.tanh(data) if yes else soft, atol=1e-6)
            np.testing.assert_array_equal(got[1], data)
            np.testing.assert_allclose(got[2], np.exp(data).reshape(6, 4), atol=1e-5)
            assert got[3].shape == (0, 3) and got[4].tolist() == [0, 0, 0]

    def test_times(self, target: str) -> None:
        module = module_of(affine(), target)
        profile = module.profile(repeat=2, x=np.zeros((3, 37), np.float32))
        assert [s.implementation for s in profile.steps] == ["loops.opencl"] and profile.steps[0].seconds > 0
        assert module.benchmark(repeat=1, number=1).min > 0

    def test_a_condition_that_shows_a_constant(self, target: str) -> None:
        x, flag = fw.var("x", shape=(4,)), fw.reshape(fw.const(np.array([True])), ())
        with fw.transform.PassContext(disabled_pass=["FoldConstant"]):
            lib = fw.build(fw.Function([x], fw.If(flag, fw.negative(x), x)), target)
        assert lib.program.views
        np.testing.assert_array_equal(lib(x=np.ones(4, np.float32)), -np.ones(4))

    def test_the_profile_of_a_step_without_elements(self, target: str) -> None:
        none = fw.var("none", shape=(0, 4))
        module = module_of(fw.Tuple([fw.nn.relu(none), fw.sum(none, axis=0)]), target)
        profile = module.profile(repeat=2, none=np.zeros((0, 4), np.float32))
        empty, whole = sorted(profile.steps, key=lambda step: step.seconds)
        assert empty.seconds == empty.gflops == empty.gbytes == empty.share == 0 < whole.share


@each_device
def test_as_on_a_gpu(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work-groups of several items, more of them than iterations; tensors that the host does not see; many tiles of
    Winograd with scratch for each work-item.
    """
    monkeypatch.setattr(runtime.Session, "local", 4)
    monkeypatch.setattr(OpenclQueue, "near", False)
    rng = np.random.default_rng(4)
    weight = rng.uniform(-1, 1, (40, 24, 3, 3)).astype(np.float32)
    x = fw.var("x", shape=(1, 24, 29, 30))
    conv = fw.nn.conv2d(x, fw.const(weight), kernel_size=(3, 3), channels=40, padding=(1, 1))
    whole = fw.Function([x], fw.Tuple([conv, fw.sum(x, axis=(2, 3)), fw.transpose(x, (0, 2, 3, 1)), x]))
    data = rng.uniform(-1, 1, (1, 24, 29, 30)).astype(np.float32)
    module = module_of(whole, target)
    module.run(x=data)
    code = module.lib.code
    assert isinstance(code, LaunchCode)
    assert any(call.shared for step in code.steps.values() for call in step.calls)
    for k, expected in enumerate(fw.testing.evaluate(whole, {"x": data})):
        np.testing.assert_allclose(module.get_output(k).numpy(), expected, atol=2e-4)


@each_device
def test_a_new_shape_is_planned_anew(target: str) -> None:
    """The same graph with other sizes: other padding, guards and memory, equal programs or not."""
    rng, n = np.random.default_rng(5), fw.size_var("n")
    weight = rng.uniform(-1, 1, (8, 5, 3, 3)).astype(np.float32)

    def graph(*shape: Any) -> fw.Function:
        x = fw.var("x", shape=shape)
        conv = fw.nn.conv2d(x, fw.const(weight), kernel_size=(3, 3), channels=8, padding=(1, 1))
        return fw.Function([x], fw.nn.softmax(fw.nn.max_pool2d(conv, (2, 2), (2, 2)), axis=1))

    sizes = []
    for size in (7, 30, 7):
        lib = fw.build(graph(1, 5, n, n), target, shape={"x": (1, 5, size, size)})
        data = rng.uniform(-1, 1, (1, 5, size, size)).astype(np.float32)
        (expected,) = fw.testing.evaluate(graph(1, 5, size, size), {"x": data})
        np.testing.assert_allclose(lib(x=data), expected, atol=1e-5)
        sizes.append(lib.runnable.arena.size)
    assert 0 < sizes[0] == sizes[2] < sizes[1]


@each_device
class TestErrors:
    def test_too_much_memory_names_the_bytes(self, target: str) -> None:
        lib = fw.build(affine((1 << 20, 1 << 22)), target)
        with pytest.raises(fw.FusewireError, match=r"\d{14} bytes"):
            lib["default"](fw.device("opencl"))
            fw.GraphModule(lib["default"](fw.device("opencl")))

    def test_a_device_without_memory(self, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The driver's refusal becomes an error with the bytes, and afterwards the module can be made."""
        cl = pyopencl()
        lib = fw.build(affine(), target)
        factory = lib["default"](fw.device("opencl"))

        def refuse(*args: Any, **more: Any) -> Any:
            raise cl.MemoryError(status("create_buffer", "MEM_OBJECT_ALLOCATION_FAILURE"))

        there, x = fw.GraphModule(factory), np.ones((3, 37), np.float32)
        with monkeypatch.context() as patch:
            patch.setattr(cl, "Buffer", refuse)
            with pytest.raises(DeviceError, match=r"allocating \d+ bytes for a tensor .* not enough memory"):
                fw.GraphModule(factory)
            there.run(x=x)  # what has its memory goes on
        for module in (there, fw.GraphModule(factory)):
            module.run(x=x)
            np.testing.assert_array_equal(module.get_output(0).numpy(), x)

    def test_a_refused_call_in_the_middle_leaves_the_module_usable(
        self, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Copies, kernels and waiting: each says in words what was being done, and the next run is right."""
        cl, x = pyopencl(), np.full((3, 37), 2.0, np.float32)
        module = module_of(fw.Tuple([affine(), fw.var("y", shape=(2, 3))]), target)
        y = np.ones((2, 3), np.float32)
        module.run(x=x, y=y)
        module.run()  # which records
        for call, what in (("enqueue_copy", "copying 24 bytes"), ("enqueue_map_buffer", "copying 444 bytes to the")):

            def refuse(*args: Any, call: str = call, **more: Any) -> Any:
                raise cl.RuntimeError(status(call, "OUT_OF_RESOURCES"))

            with monkeypatch.context() as patch:
                patch.setattr(cl, call, refuse)
                with pytest.raises(DeviceError, match=f"{what}.* on .*{call} gave OUT_OF_RESOURCES: the device ran"):
                    module.run(x=x, y=y) if call == "enqueue_map_buffer" else module.run()
            module.run(x=x, y=y)
            np.testing.assert_array_equal(module.get_output(0).numpy(), np.full((3, 37), 3.0))
            np.testing.assert_array_equal(module.get_output(1).numpy(), y)

    def test_a_refused_launch_names_the_kernel(self, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        cl = pyopencl()
        calls = []

        def refuse(*args: Any) -> Any:
            calls.append(args)
            raise cl.LogicError(status("clEnqueueNDRangeKernel", "INVALID_WORK_GROUP_SIZE"))

        module = module_of(affine(), target)
        with monkeypatch.context() as patch:
            patch.setattr(cl, "enqueue_nd_range_kernel", refuse)
            with pytest.raises(
                DeviceError,
                match=r"launching the kernel fusewire_default_fused_.*INVALID_WORK_GROUP_SIZE: the work-group",
            ):
                module.run(x=np.zeros((3, 37), np.float32))
        assert calls
        with pytest.raises(fw.RuntimeInputError, match="no outputs"):
            module.get_output(0)

    def test_what_is_not_there_yet_is_said(self, target: str) -> None:
        lib = fw.build(affine(), target)
        with pytest.raises(fw.FusewireError, match="for the target cpu only"):
            lib.export_c("nowhere")
        with pytest.raises(fw.FusewireError, match="kind 'opencl' and 'loops', not 'c'"):
            lib.get_source(kind="c")


@each_device
def test_programs_come_from_the_cache(
    target: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FUSEWIRE_CACHE_DIR", str(tmp_path))
    caplog.set_level(logging.DEBUG, "fusewire")
    device = all_devices()[0]
    lib = fw.build(affine((5, 3)), target)
    found = runtime.Session(device)
    for expected in (1, 1):
        found.programs(lib.runnable.code.files, 1)
        assert sum("compiled kernels" in r.message for r in caplog.records) == expected
    (source,) = [text for _, text in lib.runnable.code.files]
    found.programs([("kernels0", source + "\n// another text\n")], 1)
    assert sum("compiled kernels" in r.message for r in caplog.records) == 2
    with pytest.raises(fw.FusewireError, match="refused kernels0"):
        found.programs([("kernels0", "this is no program")], 1)


@each_device
def test_compilers_have_nothing_to_say(target: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No warning is in the log of the build, nor on stderr, where PoCL prints how many there are."""
    cl, device = pyopencl(), find(fw.Target(target).device)
    lib = fw.build(fw.nn.softmax(fw.var("x", shape=(3, 37))), target)
    ((_, source),) = lib.runnable.code.files
    new = f"-DFW_NEW_{uuid.uuid4().hex}"  # a driver has a cache of its own, and from there comes no warning
    session = runtime.Session(device)
    program = cl.Program(session.context, source).build([*session.options(session.local), new], cache_dir=False)
    log = program.get_build_info(device.raw, cl.program_build_info.LOG)
    assert "warning" not in log.lower() and "warning" not in capfd.readouterr().err
    if device.platform == runtime.FLAT:
        assert log == ""


def test_every_status_has_a_call_in_its_message() -> None:
    cl = pytest.importorskip("pyopencl")
    if not all_devices():
        pytest.skip("there is no OpenCL device")
    session = runtime.Session(all_devices()[0])  # a context without a reference is gone
    program = cl.Program(session.context, "__kernel void k(int a) {}").build()
    with (
        pytest.raises(DeviceError, match=r"doing this on .*clSetKernelArg gave INVALID_ARG_INDEX"),
        runtime.told("doing this", session.device),
    ):
        cl.Kernel(program, "k").set_arg(7, np.int32(1))
