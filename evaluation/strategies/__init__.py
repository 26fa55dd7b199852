"""Ways to get an answer out of one checkpoint, with what each costs beside what it gains; see `__main__.py`."""
