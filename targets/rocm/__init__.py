"""The `rocm` target."""
