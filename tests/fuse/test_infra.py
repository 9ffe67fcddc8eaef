"""Pass contexts, sequences, instruments."""

import logging
import threading
from typing import Any

import pytest

import fusewire as fw
from fusewire.fuse import infra
from fusewire.fuse.transform import (
    FoldConstant,
    FuseOps,
    InferType,
    Pass,
    PassContext,
    PassInfo,
    PassInstrument,
    PassTimingInstrument,
    PrintAfterAll,
    PrintBeforeAll,
    PrintIR,
    Sequential,
    SimplifyInference,
    function_pass,
    module_pass,
    pass_instrument,
)


def module() -> fw.IRModule:
    x = fw.var("x", shape=(4,))
    return fw.IRModule.from_expr(fw.exp(fw.add(x, fw.const(1.0))))


def tracer(name: str, level: int, trace: list[str]) -> Pass:
    def run(mod: fw.IRModule, context: PassContext) -> fw.IRModule:
        trace.append(name)
        return mod

    return Pass(name, level, run)


class TestContext:
    def test_default_is_level_two(self) -> None:
        assert PassContext.current().opt_level == 2
        assert PassContext().opt_level == 2

    def test_nesting(self) -> None:
        with PassContext(opt_level=3) as outer:
            with PassContext(opt_level=0):
                assert PassContext.current().opt_level == 0
            assert PassContext.current() is outer
        assert PassContext.current().opt_level == 2

    def test_left_after_an_error(self) -> None:
        with pytest.raises(KeyError), PassContext(opt_level=0):
            raise KeyError
        assert PassContext.current().opt_level == 2

    def test_other_threads_do_not_see_it(self) -> None:
        seen: list[int] = []
        with PassContext(opt_level=0):
            thread = threading.Thread(target=lambda: seen.append(PassContext.current().opt_level))
            thread.start()
            thread.join()
        assert seen == [2]

    @pytest.mark.parametrize("where", ["required_pass", "disabled_pass"])
    def test_unknown_pass(self, where: str) -> None:
        with pytest.raises(fw.FusewireError, match=rf"{where}: unknown pass 'FoldConstants'.*FoldConstant, "):
            PassContext(**{where: ["FoldConstants"]})  # type: ignore[arg-type]

    def test_unknown_config(self) -> None:
        with pytest.raises(fw.FusewireError, match=r"unknown key 'relay.FuseOps.max_dept' \(did you mean"):
            PassContext(config={"relay.FuseOps.max_dept": 3})

    @pytest.mark.parametrize("value", ["3", 3.0, True])
    def test_config_of_a_wrong_type(self, value: object) -> None:
        with pytest.raises(fw.FusewireError, match="must be of type int"):
            PassContext(config={"relay.FuseOps.max_depth": value})

    def test_options_are_listed(self) -> None:
        option = PassContext.list_configs()["relay.FuseOps.max_depth"]
        assert (option.type, option.default) == (int, 256)
        assert PassContext().option(option) == 256
        assert PassContext(config={"relay.FuseOps.max_depth": 3}).option(option) == 3


class TestSequential:
    def run(self, context: PassContext) -> list[str]:
        trace: list[str] = []
        steps = [tracer(f"level{k}", k, trace) for k in range(5)]
        with context:
            Sequential(steps)(module())
        return trace

    @pytest.mark.parametrize("level", range(5))
    def test_level_decides(self, level: int) -> None:
        assert self.run(PassContext(opt_level=level)) == [f"level{k}" for k in range(level + 1)]

    def test_required_and_disabled(self) -> None:
        self.run(PassContext())  # makes the names known
        assert self.run(PassContext(opt_level=0, required_pass=["level3"])) == ["level0", "level3"]
        assert self.run(PassContext(opt_level=1, disabled_pass=["level0"])) == ["level1"]
        both = PassContext(opt_level=0, required_pass=["level3"], disabled_pass=["level3"])
        assert self.run(both) == ["level0"]

    def test_a_pass_called_by_itself_runs_whatever_its_level(self) -> None:
        trace: list[str] = []
        with PassContext(opt_level=0):
            tracer("high", 4, trace)(module())
        assert trace == ["high"]

    def test_level_of_the_whole(self) -> None:
        trace: list[str] = []
        inner = Sequential([tracer("inner", 0, trace)], opt_level=3, name="late")
        Sequential([inner])(module())
        assert trace == []
        with PassContext(opt_level=3):
            Sequential([inner])(module())
        assert trace == ["inner"]

    def test_not_a_pass(self) -> None:
        with pytest.raises(fw.FusewireError, match="call its constructor"):
            Sequential([FoldConstant])  # type: ignore[list-item]

    def test_not_a_module(self) -> None:
        with pytest.raises(fw.FusewireError, match="IRModule"):
            FoldConstant()(module()["main"])  # type: ignore[arg-type]

    def test_skipped_passes_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, "fusewire"):
            self.run(PassContext(opt_level=3))
        assert "pass level4 (level 4) is skipped at level 3" in caplog.text


class TestChecks:
    def test_types_are_inferred_before_and_after(self) -> None:
        x, w = fw.var("x", shape=(2, 3)), fw.var("w")
        untyped = fw.IRModule.from_expr(fw.nn.dense(x, w, units=5))
        assert untyped["main"].known_type is None

        @module_pass(opt_level=0)
        def rebuild(mod: fw.IRModule, context: PassContext) -> fw.IRModule:
            assert str(mod["main"].params[1].checked_type) == "Tensor[(5, 3), float32]"
            p, q = fw.var("p", shape=(2, 3)), fw.var("q")
            return fw.IRModule.from_expr(fw.nn.dense(p, q, units=4))

        assert str(rebuild(untyped)["main"].body.checked_type) == "Tensor[(2, 4), float32]"

    def test_a_pass_that_breaks_the_program_is_named(self) -> None:
        def stray(mod: fw.IRModule, context: PassContext) -> fw.IRModule:
            return fw.IRModule({"main": fw.Function([], fw.exp(fw.var("lost", shape=(2,))))})

        with pytest.raises(fw.VerifyError, match=r"after Stray.*lost"):
            Pass("Stray", 0, stray)(module())

    def test_changes(self) -> None:
        before = module()
        assert infra.changes(before, InferType()(before)) == []
        assert infra.changes(before, FuseOps(2)(before)) == ["main"]
        assert infra.changes(before, before.with_functions({"f": before["main"]})) == ["f"]

    def test_debug_level_reports_passes(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("FUSEWIRE_DEBUG", "2")
        Sequential([InferType(), FuseOps(2)])(module())
        error = capsys.readouterr().err
        assert "pass InferType: no change" in error
        assert "pass FuseOps: changed main" in error

    def test_debug_level_must_be_a_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FUSEWIRE_DEBUG", "yes")
        with pytest.raises(fw.FusewireError, match="got 'yes'"):
            infra.debug_level()


class TestOwnPasses:
    def test_function_pass(self) -> None:
        @function_pass(opt_level=1)
        def negate(func: fw.Function, mod: fw.IRModule, context: PassContext) -> fw.Function:
            return fw.Function(func.params, fw.negative(func.body))

        assert (negate.info.name, negate.info.opt_level) == ("negate", 1)
        body = negate(module())["main"].body
        assert isinstance(body, fw.Call) and str(body.op) == "negative"

    def test_function_pass_leaves_fused_functions_alone(self) -> None:
        p = fw.var("p", shape=(2,))
        sealed = fw.Function([p], fw.exp(p), None, {"Primitive": 1})
        mod = module().with_functions({"sealed": sealed})
        seen: list[fw.Function] = []

        @function_pass
        def note(func: fw.Function, mod: fw.IRModule, context: PassContext) -> fw.Function:
            seen.append(func)
            return func

        assert note(mod)["sealed"] is sealed
        assert len(seen) == 1

    def test_classes(self) -> None:
        @module_pass(opt_level=2, name="Renamed")
        class Rename:
            def __init__(self, to: str) -> None:
                self.to = to

            def transform_module(self, mod: fw.IRModule, context: PassContext) -> fw.IRModule:
                return fw.IRModule({self.to: mod["main"]})

        constructor: Any = Rename  # the decorator made it one
        made = constructor("other")
        assert made.info == PassInfo("Renamed", 2)
        assert list(made(module())) == ["other"]

    def test_class_without_the_method(self) -> None:
        with pytest.raises(fw.FusewireError, match="needs a method transform_function"):

            @function_pass
            class Empty:
                pass


class TestInstruments:
    def test_order_of_events(self) -> None:
        events: list[str] = []

        @pass_instrument
        class Trace:
            def enter_pass_ctx(self) -> None:
                events.append("enter")

            def exit_pass_ctx(self) -> None:
                events.append("exit")

            def run_before_pass(self, mod: fw.IRModule, info: PassInfo) -> None:
                events.append(f"before {info.name}")

            def run_after_pass(self, mod: fw.IRModule, info: PassInfo) -> None:
                events.append(f"after {info.name} {len(str(mod)) > 0}")

        instrument: Any = Trace()
        with PassContext(instruments=[instrument]):
            Sequential([InferType(), FoldConstant()], name="row")(module())
        inner = [e for name in ("InferType", "FoldConstant") for e in (f"before {name}", f"after {name} True")]
        assert events == ["enter", "before row", *inner, "after row True", "exit"]

    def test_refusing_a_pass(self) -> None:
        class Refuse(PassInstrument):
            def should_run(self, mod: fw.IRModule, info: PassInfo) -> bool:
                return info.name != "FuseOps"

        mod = InferType()(module())
        with PassContext(instruments=[Refuse()]):
            assert FuseOps(2)(mod) is mod
        with PassContext(instruments=[Refuse()], required_pass=["FuseOps"]):
            assert FuseOps(2)(mod) is not mod

    def test_timing(self) -> None:
        timing = PassTimingInstrument()
        with PassContext(instruments=[timing]):
            Sequential([SimplifyInference(), FuseOps(2)], name="row")(module())
        assert [(t.name, t.depth) for t in timing.timings] == [("row", 0), ("SimplifyInference", 1), ("FuseOps", 1)]
        assert all(t.seconds is not None and t.seconds >= 0 for t in timing.timings)
        lines = timing.render().splitlines()
        assert lines[0].startswith("row") and lines[0].endswith("100.0%")
        assert lines[1].startswith("  SimplifyInference")

    def test_printing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with PassContext(instruments=[PrintBeforeAll(), PrintAfterAll()]):
            FuseOps(2)(module())
        before, after = capsys.readouterr().out.split("# after FuseOps")
        assert before.startswith("# before FuseOps") and "Primitive" not in before
        assert "Primitive=1" in after

    def test_print_pass(self, capsys: pytest.CaptureFixture[str]) -> None:
        mod = InferType()(module())
        assert PrintIR("here")(mod) is mod
        assert capsys.readouterr().out.startswith("# here\n")
