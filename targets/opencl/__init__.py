"""The `opencl` target: devices, programs, and modules whose steps are launches."""
