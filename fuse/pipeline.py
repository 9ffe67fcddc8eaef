"""Everything that happens to a graph before code is generated, as one list."""

from collections.abc import MutableSequence, Sequence

from .infra import Sequential
from .library import Library
from .partition import Decision, partition_pass
from .transform import (
    AlterLayout,
    CanonicalizeOps,
    DeadCodeElimination,
    EliminateCommonSubexpr,
    FoldConstant,
    FoldScaleAxis,
    FuseOps,
    SimplifyExpr,
    SimplifyInference,
)


def pipeline(
    libraries: Sequence[Library] = (),
    decisions: MutableSequence[Decision] | None = None,
    *,
    vector_bytes: int = 0,
    fuse: bool = True,
) -> Sequential:
    """The passes of `build`, in order; the number is the level from which each runs (the default level is 2).

    Args:
        libraries: what may take regions of the graph, in order of preference.
        decisions: where to record what the libraries took and refused.
        vector_bytes: bytes of a vector register, for blocked layouts; 0: none.
        fuse: whether to end with FuseOps; without it the result is the graph "before fusion".

    """
    passes = [
        SimplifyInference(),  #                        0: batch_norm becomes multiply and add, dropout goes
        CanonicalizeOps(),  #                          3: bias_add becomes add
        SimplifyExpr(),  #                             2: transposes, reshapes and casts that cancel out
        FoldConstant(),  #                             2: scale and shift of batch_norm become constants
        FoldScaleAxis(),  #                            3: constant scales go into weights
        EliminateCommonSubexpr(),  #                   3: what is computed twice is computed once
        DeadCodeElimination(),  #                      1: what nothing uses goes
        partition_pass(libraries, decisions),  #       0: regions for libraries
        AlterLayout(vector_bytes),  #                  2: channels in blocks of a vector, where that pays
    ]
    return Sequential([*passes, FuseOps()] if fuse else passes, name="pipeline")  # FuseOps is level 0
