"""Networks written by hand in PyTorch, exported to ONNX, read by fusewire and compared with ONNX Runtime.

`vision` and `sequence` hold the networks, each a dict `MODELS` from a name to a function that makes a `model.Example`.
`python -m benchmarks.exported` runs them; see `__main__`.
"""
