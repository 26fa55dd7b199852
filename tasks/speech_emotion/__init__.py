"""Which emotion a voice carries, on corpora of acted speech."""
