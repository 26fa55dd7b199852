"""The experiments behind docs/evidence.md: `python -m evidence e1`. Every run is one that a user could type; see `plan.py`."""
