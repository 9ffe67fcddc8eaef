"""Where two compiled modules part: the first group, then the first operator in it, and a script that shows it.

groups      a group as a function of tensors: its meaning in float64, its prefixes
alone       compiling one group by itself, by the same implementation
search      the search: `bisect_mismatch`
result      what it found
reproducer  the script, and what runs it
"""

from .reproducer import reproduce
from .result import Bisection, Mismatch, Probe
from .search import bisect_mismatch

__all__ = ["Bisection", "Mismatch", "Probe", "bisect_mismatch", "reproduce"]
