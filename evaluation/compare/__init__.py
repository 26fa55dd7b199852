"""Compare methods of several seeds each on the same test items; see `__main__.py`."""
