"""Tests of omni; they mirror its modules."""
