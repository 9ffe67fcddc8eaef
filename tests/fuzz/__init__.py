"""Damaged models and artefacts, thousands of them: each must end in a result or a FusewireError.

    python -m tests.fuzz --count 5000 -j 2
    python -m tests.fuzz --kind onnx --replay 17

`models` and `artefacts` have the whole files. `mutate` damages bytes, `parts`, `protobuf`, `operators`, `stored` and
`bombs` the structure of a model. `cases` makes and runs one case, `worker` is the process that forks a child for each
case and watches it, `__main__` is the command.
"""
