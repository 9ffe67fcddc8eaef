"""Schedules for devices that run work-groups: variants by table (table.py), each family in a file of its own."""
