"""The CPU engine: a spoken conversation from small weights that come as Python packages."""
