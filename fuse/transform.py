"""The passes by their public names: `fw.transform`."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..ir.expr import Expr, Function
from ..ir.module import IRModule
from . import (
    alter_layout,
    attention,
    canonicalize,
    convert_layout,
    cse,
    dead_code,
    fold_constant,
    fold_scale_axis,
    fuse_ops,
    fuse_stages,
    mixed_precision,
    regions,
    simplify_inference,
)
from .infra import (
    ConfigOption,
    Pass,
    PassContext,
    Sequential,
    function_pass,
    known_passes,
    module_pass,
)
from .instrument import (
    PassInfo,
    PassInstrument,
    PassTimingInstrument,
    PrintAfterAll,
    PrintBeforeAll,
    pass_instrument,
)
from .library import Library

__all__ = [
    "AlterLayout", "AnnotateTarget", "BackwardFoldScaleAxis", "CanonicalizeOps", "ConfigOption", "ConvertLayout",
    "DeadCodeElimination", "DefuseOps", "EliminateCommonSubexpr", "FoldConstant", "FoldScaleAxis",
    "ForwardFoldScaleAxis", "FuseAttention", "FuseOps", "FuseStages", "InferType", "MergeComposite", "PartitionGraph",
    "Pass", "PassContext", "PassInfo", "PassInstrument", "PassTimingInstrument", "PrintAfterAll", "PrintBeforeAll",
    "PrintIR", "Sequential", "SimplifyExpr", "SimplifyInference", "ToGraphNormalForm", "ToMixedPrecision",
    "function_pass", "known_passes", "module_pass", "pass_instrument",
]  # fmt: skip


def InferType() -> Pass:
    """Find the types that were left out. Every pass does so first; this one does nothing else."""
    return Pass("InferType", 0, lambda mod, context: mod)


def PrintIR(header: str = "", show_meta_data: bool = False) -> Pass:
    """Print the module, below a header, and leave it as it is."""

    def show(mod: IRModule, context: PassContext) -> IRModule:
        print(f"# {header}\n{mod.astext(show_meta_data)}" if header else mod.astext(show_meta_data))
        return mod

    return Pass("PrintIR", 0, show)


def SimplifyInference() -> Pass:
    """Write batch normalisation as multiply and add, and drop dropout (level 0)."""
    return simplify_inference.simplify_inference()


def FoldConstant() -> Pass:
    """Compute what depends on constants only (level 2)."""
    return fold_constant.fold_constant()


def AlterLayout(vector_bytes: int, libraries: Sequence[Library] = ()) -> Pass:
    """Put the channels of feature maps into blocks of a vector of so many bytes, where that pays (level 2).

    Regions that belong to one of the `libraries` take part if the library knows such layouts.
    """
    return alter_layout.alter_layout(vector_bytes, libraries)


def FuseAttention() -> Pass:
    """Make nn.attention of two matrix products around a softmax (level 2)."""
    return attention.fuse_attention()


def FoldScaleAxis() -> Pass:
    """Move multiplications by a constant for each channel into the weights of convolutions and dense (level 3)."""
    return fold_scale_axis.fold_scale_axis()


def BackwardFoldScaleAxis() -> Pass:
    """FoldScaleAxis for multiplications behind the convolution only (level 3)."""
    return fold_scale_axis.backward_fold_scale_axis()


def ForwardFoldScaleAxis() -> Pass:
    """FoldScaleAxis for multiplications in front of the convolution only (level 3)."""
    return fold_scale_axis.forward_fold_scale_axis()


def EliminateCommonSubexpr(fskip: Callable[[Expr], bool] | None = None) -> Pass:
    """Compute only once what is computed twice (level 3); calls for which `fskip` holds are kept."""
    return cse.eliminate_common_subexpr(fskip)


def DeadCodeElimination(inline_once: bool = False) -> Pass:
    """Remove let-bindings and functions that nothing uses (level 1).

    Args:
        inline_once: also replace variables that are used once by their values.

    """
    return dead_code.dead_code_elimination(inline_once)


def ToGraphNormalForm() -> Pass:
    """Replace every let-bound variable by its value (level 1)."""
    return dead_code.to_graph_normal_form()


def CanonicalizeOps() -> Pass:
    """Write bias_add as expand_dims and add (level 3)."""
    return canonicalize.canonicalize_ops()


def SimplifyExpr() -> Pass:
    """Remove transposes, reshapes and casts that undo each other or do nothing (level 2)."""
    return canonicalize.simplify_expr()


def ConvertLayout(desired_layouts: Mapping[str, Sequence[str]]) -> Pass:
    """Change the layout of convolutions, e.g. `{"nn.conv2d": ["NHWC", "default"]}`, and of what follows (level 3).

    Args:
        desired_layouts: by operator (nn.conv1d, nn.conv2d, nn.conv3d) the layouts of data and kernel; "default" is the
            kernel layout that goes with the data's.

    """
    return convert_layout.convert_layout(desired_layouts)


def ToMixedPrecision(mixed_precision_type: str = "float16", both: bool | None = None) -> Pass:
    """Constant weights as "float16" or "bfloat16", and with `both` what they are multiplied by, too (level 0).

    Sums, and everything that is not a convolution or a matrix product, stay float32, as do inputs and results. Without
    `both`, "bfloat16" rounds both and "float16" the weights.
    """
    rounded = mixed_precision_type == "bfloat16" if both is None else both
    return mixed_precision.to_mixed_precision(mixed_precision_type, rounded)


def FuseOps(fuse_opt_level: int = -1) -> Pass:
    """Group operators into fused functions (level 0; `fuse_opt_level` 0 makes a function of each operator)."""
    return fuse_ops.fuse_ops(fuse_opt_level)


def FuseStages(accept: Callable[[Function], bool]) -> Pass:
    """Join a fused function to the one that it feeds, where the target accepts what comes out of it (level 1)."""
    return fuse_stages.fuse_stages(accept)


def DefuseOps() -> Pass:
    """Undo FuseOps (level 0)."""
    return fuse_ops.defuse_ops()


def MergeComposite(pattern_table: "Library | Iterable[regions.PatternEntry]") -> Pass:
    """Move what a table of patterns matches into functions with the attribute Composite (level 0).

    Args:
        pattern_table: a library, or rules, or Relay's tuples (name, pattern) and (name, pattern, check), where `check`
            says of the last expression of a match whether it may be moved. Longer matches win, then earlier entries.

    """
    return regions.merge_composite(pattern_table)


def AnnotateTarget(targets: "str | Library | Iterable[str | Library]") -> Pass:
    """Give composite functions called "acme.something" the attribute Compiler="acme", if acme is named (level 0)."""
    return regions.annotate_target(targets)


def PartitionGraph() -> Pass:
    """Seal annotated functions against other passes; composite functions that no library took are opened (level 0)."""
    return regions.partition_graph()


# PassContext knows the names of passes that exist, so each is made once.
for _make in (
    InferType, PrintIR, SimplifyInference, FoldConstant, FoldScaleAxis, BackwardFoldScaleAxis, ForwardFoldScaleAxis,
    EliminateCommonSubexpr, DeadCodeElimination, ToGraphNormalForm, CanonicalizeOps, SimplifyExpr, FuseOps, DefuseOps,
    ToMixedPrecision, PartitionGraph,
):  # fmt: skip
    _make()
ConvertLayout({})
FuseStages(lambda function: False)
MergeComposite([])
AnnotateTarget([])
