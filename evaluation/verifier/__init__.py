"""Which emotions does a sentence show: text classifiers behind one seam, and a linear one that is trained here."""
