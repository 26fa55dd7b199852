"""Who learns it, and how bytes become tensors: checkpoints, media, processor, shared prompts, engines."""

from runtime.torchvision_ops import ensure

ensure()  # before anything here imports a transformers processor; see runtime/torchvision_ops.py
