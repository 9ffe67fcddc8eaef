"""cuBLAS on NVIDIA's GPUs (`cuda -libs=cublas`): products of matrices; with bias, relu or gelu through cuBLASLt.

None of this has run on a GPU yet: it was tested against libraries that stand in for both and check how they are called.
"""

from ...fuse.library import ADDRESS, Library, Rule
from ..calls import PRODUCTS
from .ffi import CUBLAS, LT
from .products import chain, implement, why_not

PRIORITY = 25


def _rule(op: str) -> Rule:
    made = chain(op)
    return Rule(
        f"cublas.{op.removeprefix('nn.')}", made, lambda match: why_not(made.links(match)),
        implement=lambda region: implement(region, made.links(region.function)), memory=ADDRESS, priority=PRIORITY,
    )  # fmt: skip


LIBRARY = Library(
    "cublas",
    targets=("cuda",),
    rules=[_rule(op) for op in PRODUCTS],
    probe=lambda: CUBLAS.probe() or LT.probe(),
    precisions=("tf32",),
)
