"""Everything that needs a GPU, in one command: tests, tutorial, compute-sanitizer, and benchmarks beside PyTorch."""
