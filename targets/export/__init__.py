"""Standalone C projects: what `CompiledModule.export_c` writes. The `*.in` files are its templates."""
