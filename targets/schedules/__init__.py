"""Schedules: from what an operator means to loops for a machine."""
