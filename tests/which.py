"""The target that operators, random graphs and numeric edges are tested on: `cpu`, or what FUSEWIRE_TEST_TARGET says.

    FUSEWIRE_TEST_TARGET="opencl -device=intel" python -m pytest tests/ops/test_oracle.py tests/test_random_graphs.py \\
        tests/targets/test_numerics.py
"""

import os

TARGET = os.environ.get("FUSEWIRE_TEST_TARGET", "cpu")
