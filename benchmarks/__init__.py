"""Measurements that stand in the documentation: each module says how to repeat it."""
