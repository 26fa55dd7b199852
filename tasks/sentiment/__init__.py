"""How strong a sentiment is, on public corpora of texts and opinion videos."""
