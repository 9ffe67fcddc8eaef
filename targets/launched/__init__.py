"""What targets share whose kernels are launches: `opencl`, `cuda`, `rocm`."""
