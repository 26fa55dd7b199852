"""Supervised fine-tuning: perception (the tiny model only), cold start on chains, single or stacked."""
