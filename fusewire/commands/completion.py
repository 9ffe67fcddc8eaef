"""`fusewire completion`: the script that lets a shell complete commands, options, targets and files."""

import click
from click.shell_completion import get_completion_class

from .base import Command


@click.command(
    cls=Command,
    examples=(
        'eval "$(fusewire completion bash)"        in ~/.bashrc',
        'eval "$(fusewire completion zsh)"         in ~/.zshrc',
        "fusewire completion fish > ~/.config/fish/completions/fusewire.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete `fusewire`.

    It completes commands, options, targets with their libraries, passes, and file names.
    """
    cls = get_completion_class(shell)
    if cls is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(cls(ctx.find_root().command, {}, "fusewire", "_FUSEWIRE_COMPLETE").source())
