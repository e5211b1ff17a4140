"""Runs long jobs on this machine or on a cluster."""
