"""What others wrote: external libraries and ecosystems."""
