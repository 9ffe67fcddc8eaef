"""How images print: read-only memory of texels, four float32 side by side, in the languages that have such.

An image is a buffer of scope "image" and shape (rows, columns, 4). What lies in it may be float32 or float16; reading
gives float32, exactly. A language that has images says in its dialect how one is a parameter, and how it is read.
"""

from collections.abc import Callable, Mapping

from ..ir.errors import VerifyError
from ..ir.index import Index
from ..ir.scalar import Buffer, Load
from .dialects import Dialect
from .prelude import Prelude

TEXEL = 4
"""Numbers of a texel."""


def image_param(dialect: Dialect, buffer: Buffer) -> str:
    """An image as a parameter.

    Raises:
        VerifyError: the language has no images.
    """
    return _words(dialect, buffer)["param"].format(name=buffer.name)


def image_load(node: Load, prelude: Prelude, index: Callable[[Index], str]) -> str:
    """A whole texel, or where fewer lanes are wanted (beside values of 64 bits) a part of one.

    Raises:
        VerifyError: the language has no images, or the lanes are not in one texel.
    """
    image, (row, column, place) = _words(prelude.dialect, node.buffer), node.index
    if node.lanes > TEXEL or node.lanes + place.bounds[1] > TEXEL:
        raise VerifyError(f"a load of {node.lanes} lanes from {node.buffer.name} goes beyond a texel")
    prelude.helper("fw_nearest", image["sampler"])
    texel = image["load"].format(name=node.buffer.name, x=index(column), y=index(row))
    if node.lanes == TEXEL:
        return texel
    name = f"fw_texel_part{node.lanes}"
    template = image["one" if node.lanes == 1 else "part"]
    helper = template.format(name=name, lanes=node.lanes, t=prelude.type(node.dtype, node.lanes))
    return f"{prelude.helper(name, helper)}({texel}, {index(place)})"


def _words(dialect: Dialect, buffer: Buffer) -> Mapping[str, str]:
    if not dialect.image:
        raise VerifyError(f"{dialect.name} has no images, and {buffer.name} is one")
    return dialect.image
