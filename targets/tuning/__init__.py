"""Tuning: candidates are tried on the device, what is fastest and right is remembered."""
