"""Where a run is shown besides its folder: W&B and trackio, both served alike (base.py), offline unless somebody has an account."""
