"""The `cuda` target."""
