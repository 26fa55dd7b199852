"""`python -m rl`: Hint-GRPO from a cold-started checkpoint."""

from rl.stage import main

main()
