"""Starts the command (command.py), if what it needs is there."""

from importlib import import_module

from .needs import require

if __name__ == "__main__":
    require()
    import_module("benchmarks.gpu.command").main(prog_name="python -m benchmarks.gpu")
