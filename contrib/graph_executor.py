"""`GraphModule` under the name by which Relay scripts import it."""

from ..targets.executor import GraphModule

__all__ = ["GraphModule"]
