"""Is the data sound, and will it fit: `python -m evaluation.doctor`."""
