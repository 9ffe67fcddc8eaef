"""What happens to a graph: the passes."""
