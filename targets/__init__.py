"""How it runs: target strings, code generation, execution."""
