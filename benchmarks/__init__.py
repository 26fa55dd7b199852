"""Side-by-side timings, each with an equality check first."""
