"""Everything that happens to a graph before code is generated, as one list."""

from collections.abc import MutableSequence, Sequence

from .infra import Sequential
from .library import Library
from .partition import Decision, partition_pass
from .strict import strict_pass
from .transform import (
    AlterLayout,
    CanonicalizeOps,
    DeadCodeElimination,
    EliminateCommonSubexpr,
    FoldConstant,
    FoldScaleAxis,
    FuseAttention,
    FuseOps,
    SimplifyExpr,
    SimplifyInference,
    ToMixedPrecision,
)


def pipeline(
    libraries: Sequence[Library] = (),
    decisions: MutableSequence[Decision] | None = None,
    *,
    post_ops: bool = True,
    vector_bytes: int = 0,
    strict: bool = False,
    precision: str = "float32",
    half: bool = False,
    fuse: bool = True,
) -> Sequential:
    """The passes of `build`, in order; the number is the level from which each runs (the default level is 2).

    Args:
        libraries: what may take regions of the graph, in order of preference.
        decisions: where to record what the libraries took and refused.
        post_ops: whether libraries may absorb what follows an operator.
        vector_bytes: bytes of a vector register, for blocked layouts; 0: none.
        strict: whether what the libraries refuse is an error.
        precision: the dtype of the factors of products: "float32", "float16" or "bfloat16".
        half: whether float16 is computed with, so that not only weights are rounded to it.
        fuse: whether to end with FuseOps; without it the result is the graph "before fusion".

    """
    made = [] if decisions is None else decisions
    passes = [
        SimplifyInference(),  #                        0: batch_norm becomes multiply and add, dropout goes
        CanonicalizeOps(),  #                          3: bias_add becomes add
        SimplifyExpr(),  #                             2: transposes, reshapes and casts that cancel out
        FoldConstant(),  #                             2: scale and shift of batch_norm become constants
        FoldScaleAxis(),  #                            3: constant scales go into weights
        EliminateCommonSubexpr(),  #                   3: what is computed twice is computed once
        DeadCodeElimination(),  #                      1: what nothing uses goes
        FuseAttention(),  #                            2: products around a softmax become attention
        partition_pass(libraries, made, post_ops=post_ops),  # 0: regions for libraries
        *([strict_pass(libraries, made)] if strict else []),
        AlterLayout(vector_bytes, libraries),  #       2: channels in blocks of a vector, where that pays
    ]
    if precision != "float32":
        passes.append(ToMixedPrecision(precision, half or None))  # 0: weights, and what they multiply, as 16-bit floats
    return Sequential([*passes, FuseOps()] if fuse else passes, name="pipeline")  # FuseOps is level 0
