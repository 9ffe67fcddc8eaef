"""cuDNN on NVIDIA's GPUs (`cuda -libs=cudnn`): convolutions with bias, residual and relu, pools and softmax; and
convolutions of 16-bit floats with more behind them, which its graph interface fuses.

None of this has run on a GPU yet: it was tested against a library that stands in for cuDNN and checks how it is called.
"""

from ...fuse.library import ADDRESS, Library, Rule
from ..calls import rules_for
from ..layers import POOLS, SOFTMAX, why_not_pool, why_not_softmax
from . import convolution, graph, layers
from .ffi import CUDNN, DTYPES

PRIORITY = 25

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
            rule
            for ops, why_not, implement in (
                (POOLS, why_not_pool, layers.implement_pool),
                (SOFTMAX, why_not_softmax, layers.implement_softmax),
            )
            for rule in rules_for(
                "cudnn", ops, tuple(DTYPES), why_not, implement, memory=ADDRESS, priority=PRIORITY
            )
        ),
    ],
    probe=CUDNN.probe,
    precisions=("tf32",),
)  # fmt: skip
