"""Benches: each prints machine, commit, settings and numbers."""
