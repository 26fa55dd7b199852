"""What a checkpoint still knows when its input gets worse; see `__main__.py`."""
