"""SimplifyInference: what matters in training only is removed or written as plain arithmetic.

Batch normalisation with stored statistics is one multiplication and one addition for each channel:

    scale = gamma / sqrt(moving_var + epsilon)          shift = beta - moving_mean * scale
    y = data * scale + shift

With constant parameters FoldConstant computes scale and shift, and fusion appends both to the operator in front.
"""

from ..ir.expr import Call, Expr, Tuple, TupleGetItem, call, const
from ..ir.types import TensorType
from .graph import is_op_call, rewrite_function, tensor_type
from .infra import Pass, over_functions


def simplify_inference() -> Pass:
    """The pass SimplifyInference."""
    return over_functions("SimplifyInference", 0, lambda f, mod, context: rewrite_function(f, _simplified))


def _simplified(old: Expr, new: Expr) -> Expr | None:
    match new:
        case TupleGetItem(tuple_value=Tuple(fields=fields), index=index) if old.tuple_value is not new.tuple_value:  # type: ignore[attr-defined]
            return fields[index]
        case Call() if is_op_call(new, "nn.batch_norm"):
            return _batch_norm(new)
        case Call() if is_op_call(new, "nn.dropout"):
            return Tuple([new.args[0], call("ones_like", [new.args[0]])])
    return None


def _batch_norm(norm: Call) -> Expr:
    """The tuple (normalised data, moving mean, moving variance), each vector stretched along its axis."""
    data, gamma, beta, mean, variance = norm.args
    attrs = norm.attrs
    type_ = tensor_type(data)
    epsilon = const(attrs.epsilon, tensor_type(variance).dtype)
    one = const(1.0, tensor_type(variance).dtype)
    deviation = call("sqrt", [call("add", [variance, epsilon])])
    scale = call("divide", [gamma if attrs.scale else one, deviation])
    shift: Expr = call("multiply", [mean, scale])
    shift = call("subtract", [beta, shift]) if attrs.center else call("negative", [shift])
    product = call("multiply", [data, along_axis(scale, type_, attrs.axis)])
    return Tuple([call("add", [product, along_axis(shift, type_, attrs.axis)]), mean, variance])


def along_axis(vector: Expr, type_: TensorType, axis: int) -> Expr:
    """A vector in a shape that broadcasts along one axis of a tensor: (C,) as (C, 1, 1) for axis 1 of NCHW."""
    behind = type_.ndim - axis % type_.ndim - 1
    return call("expand_dims", [vector], axis=1, num_newaxis=behind) if behind else vector
