"""Other people's trainers on our checkpoint and prompts. Run by hand; see README.md."""
