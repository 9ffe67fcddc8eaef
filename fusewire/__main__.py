"""`python -m fusewire` is the command `fusewire`."""

from .cli import main

main()
