"""The command line: `fusewire COMMAND ...` and `python -m fusewire COMMAND ...`."""

import click

from . import __version__
from .commands.base import BAD_USAGE, Group, Session
from .commands.bench import bench_command
from .commands.bisect import bisect_command
from .commands.compare import compare_command
from .commands.compile import compile_command
from .commands.completion import completion_command
from .commands.doctor import doctor_command
from .commands.explain import explain_command
from .commands.lock import lock_command
from .commands.run import run_command
from .commands.tune import tune_command

__all__ = ["cli", "main"]

EPILOG = """\b
Examples:
  fusewire compile resnet50.onnx -o resnet50.fw
  fusewire run resnet50.fw --inputs data=cat.png --print-top 5
  fusewire tune resnet50.onnx
  fusewire compare resnet50.onnx --targets cpu "cpu -libs=onednn"
  fusewire doctor

\b
Completion, for bash (zsh and fish likewise):
  eval "$(fusewire completion bash)"

Exit status: 0, 1 if something failed, 2 for bad usage.
"""


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="fusewire %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Compile, run, measure and compare ONNX models with fusewire.

    A target says where a model runs and which libraries may take part: cpu, "cpu -libs=onednn", ...
    `fusewire COMMAND --help` tells more about each command.
    """
    if ctx.invoked_subcommand is None:
        ctx.ensure_object(Session).note(ctx.get_help())
        ctx.exit(BAD_USAGE)


for _name, _command in {
    "compile": compile_command,
    "run": run_command,
    "bench": bench_command,
    "compare": compare_command,
    "bisect": bisect_command,
    "tune": tune_command,
    "lock": lock_command,
    "explain": explain_command,
    "doctor": doctor_command,
    "completion": completion_command,
}.items():
    cli.add_command(_command, _name)


def main() -> None:
    """Run the command line of this process, and exit."""
    cli()
