"""What a process of `Child` answers in its tests: numbers squared, and what goes wrong."""

import os
import sys
import time
from collections.abc import Callable

from fusewire.ir.errors import FusewireError


def serve(start: int) -> Callable[[object], object]:
    """Answers requests; numbers count from `start`."""

    def answer(request: object) -> object:
        match request:
            case int():
                return start + request * request
            case "pid":
                return os.getpid()
            case "abort":
                print("the driver's last words", file=sys.stderr, flush=True)
                os.abort()
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(600)
        raise FusewireError(f"nobody knows {request}")

    return answer
