"""A network of fusewire's as a function of PyTorch: operator by operator, through PyTorch's own functions.

PyTorch gets each network as its users would write it: batch norm stays (it folds it, or not), attention is
scaled_dot_product_attention, gelu is gelu.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fusewire.ir.expr import Call, Constant, Expr, Tuple, TupleGetItem
from fusewire.ir.visitor import post_order
from fusewire.ops.spec import OpSpec

from .models import Model

Tensors = list[Any]
Step = tuple[Callable[..., Any], tuple[int, ...]]


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value


def _sides(padding: Sequence[int]) -> tuple[int, int]:
    """Padding as PyTorch has it: the same on both sides."""
    sides = tuple(padding) if isinstance(padding, Sequence) else (padding, padding)
    if len(sides) == 4 and sides[:2] != sides[2:]:
        raise ValueError(f"PyTorch pads both sides alike, got {padding}")
    return int(sides[0]), int(sides[1])


def table(torch: Any) -> dict[str, Callable[[Any], Callable[..., Any]]]:
    """For each operator: from its attributes to a function of tensors."""
    f = torch.nn.functional

    def conv2d(a: Any) -> Callable[..., Any]:
        strides, padding, groups = _pair(a["strides"]), _sides(a["padding"]), a["groups"]
        return lambda x, w: f.conv2d(x, w, None, strides, padding, 1, groups)

    def pool(a: Any) -> Callable[..., Any]:
        window, strides, padding = _pair(a["pool_size"]), _pair(a["strides"]), _sides(a["padding"])
        return lambda x: f.max_pool2d(x, window, strides, padding)

    def attention(a: Any) -> Callable[..., Any]:
        return lambda q, k, v: f.scaled_dot_product_attention(q, k, v, scale=a["scale"])

    return {
        "nn.conv2d": conv2d,
        "nn.max_pool2d": pool,
        "nn.attention": attention,
        "nn.batch_norm": lambda a: lambda x, g, b, m, v: (f.batch_norm(x, m, v, g, b, False, 0.0, a["epsilon"]),),
        "nn.relu": lambda a: torch.relu,
        "nn.global_avg_pool2d": lambda a: lambda x: x.mean((2, 3), keepdim=True),
        "nn.batch_flatten": lambda a: lambda x: x.flatten(1),
        "nn.dense": lambda a: f.linear,
        "nn.matmul": lambda a: torch.matmul,
        "nn.layer_norm": lambda a: lambda x, g, b: f.layer_norm(x, g.shape, g, b, a["epsilon"]),
        "add": lambda a: torch.add,
        "multiply": lambda a: torch.mul,
        "erf": lambda a: torch.erf,
        "tanh": lambda a: torch.tanh,
        "take": lambda a: lambda data, places: f.embedding(places, data),
        "reshape": lambda a: lambda x: x.reshape(a["newshape"]),
        "transpose": lambda a: lambda x: x.permute(*a["axes"]),
        "concatenate": lambda a: lambda parts: torch.cat(parts, a["axis"]),
        "gelu": lambda a: f.gelu,
        "gelu_tanh": lambda a: lambda x: f.gelu(x, approximate="tanh"),
    }


def twin(model: Model, torch: Any, device: str, float_type: Any) -> tuple[Callable[..., Any], Tensors]:
    """The network in PyTorch.

    Args:
        model: the network.
        torch: the package.
        device: PyTorch's name of it.
        float_type: what weights and floating inputs are converted to.

    Returns:
        A function of tensors that gives a tensor or a tuple of them, and the tensors to call it with: the inputs.

    Raises:
        KeyError: an operator has no counterpart in `table`.
    """
    known = table(torch)
    given = {**model.params, **model.inputs}

    def tensor(array: Any) -> Any:
        plain = array if array.dtype.kind in "iub" or array.dtype.name in ("float32", "float64") else array.astype("f4")
        made = torch.tensor(plain, device=device)
        return made.to(float_type) if made.is_floating_point() else made

    start = [tensor(given[p.name_hint]) for p in model.function.params]
    places = {id(p): k for k, p in enumerate(model.function.params)}
    steps: list[Step] = []
    for node in _needed(model):
        if id(node) in places:
            continue
        if isinstance(node, Constant):
            start.append(tensor(node.data))
            steps.append((_same, (len(start) - 1,)))
        else:
            steps.append(_step(node, model, known, places))
        places[id(node)] = -len(steps)
    feeds = [k for k, p in enumerate(model.function.params) if p.name_hint in model.inputs]
    steps = [(do, tuple(k if k >= 0 else len(start) - 1 - k for k in args)) for do, args in steps]

    def forward(*inputs: Any) -> Any:
        values = list(start)
        for place, value in zip(feeds, inputs, strict=True):
            values[place] = value
        for do, args in steps:
            values.append(do(*(values[k] for k in args)))
        return values[-1]

    return forward, [start[k] for k in feeds]


def _same(value: Any) -> Any:
    return value


def _needed(model: Model) -> list[Expr]:
    """The nodes in order, without the insides of what is one function in PyTorch."""
    order = post_order(model.function.body)
    needed = {id(model.function.body)}
    for node in reversed(order):
        if id(node) in needed:
            needed |= {id(part) for part in _parts(node, model)}
    return [node for node in order if id(node) in needed]


def _parts(node: Expr, model: Model) -> Sequence[Expr]:
    if id(node) in model.whole:
        return (model.whole[id(node)][1],)
    match node:
        case Call(args=args):
            return args
        case Tuple(fields=fields):
            return fields
        case TupleGetItem(tuple_value=value):
            return (value,)
    return ()


def _step(node: Expr, model: Model, known: dict[str, Callable[[Any], Callable[..., Any]]], places: Any) -> Step:
    args = tuple(places[id(part)] for part in _parts(node, model))
    if id(node) in model.whole:
        return known[model.whole[id(node)][0]](None), args
    match node:
        case Call(op=OpSpec() as op, attrs=attrs):
            return known[op.name](dict(attrs)), args
        case Tuple():
            return lambda *parts: parts, args
        case TupleGetItem(index=index):
            return lambda parts: parts[index], args
    raise KeyError(type(node).__name__)
