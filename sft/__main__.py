"""`python -m sft`: cold start on verified chains."""

from sft.stage import main

main()
