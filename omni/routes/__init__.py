"""HTTP resources, one file each, thin."""
