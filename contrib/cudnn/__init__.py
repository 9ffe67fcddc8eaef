"""cuDNN on NVIDIA's GPUs (`cuda -libs=cudnn`): convolutions with bias, residual and relu, pools and softmax; and
convolutions of 16-bit floats with more behind them, which its graph interface fuses.

None of this has run on a GPU yet: it was tested against a library that stands in for cuDNN and checks how it is called.
"""

from ...fuse.dataflow_pattern import is_op, wildcard
from ...fuse.library import ADDRESS, Library, Rule
from . import convolution, graph, layers
from .ffi import CUDNN

PRIORITY = 25

_POOLS = ("nn.max_pool2d", "nn.avg_pool2d", "nn.global_max_pool2d", "nn.global_avg_pool2d")
_SOFTMAX = ("nn.softmax", "nn.log_softmax")

LIBRARY = Library(
    "cudnn",
    targets=("cuda",),
    rules=[
        Rule(
            "cudnn.conv2d", convolution.CHAIN, convolution.why_not,
            implement=convolution.implement, memory=ADDRESS, priority=PRIORITY,
        ),
        Rule(
            "cudnn.conv2d_graph", graph.CHAIN, graph.why_not,
            implement=graph.implement, memory=ADDRESS, priority=PRIORITY,
        ),
        *(
            Rule(
                f"cudnn.{op.removeprefix('nn.')}", is_op(op)(wildcard()), check,
                implement=implement, memory=ADDRESS, priority=PRIORITY,
            )
            for ops, check, implement in (
                (_POOLS, layers.why_not_pooled, layers.implement_pool),
                (_SOFTMAX, layers.why_not_normalised, layers.implement_softmax),
            )
            for op in ops
        ),
    ],
    probe=CUDNN.probe,
    precisions=("tf32",),
)  # fmt: skip
