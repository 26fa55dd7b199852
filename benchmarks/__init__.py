"""Side-by-side timings: the obvious way to do a thing against ours, each shown to give the same numbers first."""
