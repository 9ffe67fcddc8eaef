"""A plug-in for pytest that writes every outcome as a line, so that a run that is cut short has told what it did."""

import json
import os
from pathlib import Path
from typing import Any

FILE = "FUSEWIRE_GPU_OUTCOMES"
"""The variable that names the file."""


def pytest_runtest_logreport(report: Any) -> None:
    """One line for each test, and for each part of one that failed."""
    if "PYTEST_XDIST_WORKER" in os.environ or not (report.when == "call" or report.outcome != "passed"):
        return
    line = {"test": report.nodeid, "outcome": report.outcome}
    if report.failed:
        line["why"] = str(report.longreprtext)[-600:]
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps(line) + "\n")
