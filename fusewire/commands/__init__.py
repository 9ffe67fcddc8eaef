"""The command line: one file for each command, and what they share.

base        the session (consoles, log, progress bar), errors and exit statuses
params      the kinds of values that options take
options     options that several commands have
models      from a file to a compiled module
inputs      from --inputs and --fill-mode to arrays; images: pictures
files       outputs appear whole or not at all
differences how far results are apart; health: what `doctor` looks at
"""
