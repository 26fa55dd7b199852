"""Any sequence classifier of transformers as a verifier, for example SamLowe/roberta-base-go_emotions."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from runtime.errors import ConfigError

BATCH = 64
MAX_TOKENS = 512
"""A sentence is cut here, or where its tokenizer says that the model ends."""


class HFVerifier:
    """Sigmoids where the checkpoint says that it is multi-label, else a softmax; not run on a GPU yet.

    Args:
        source: a folder or a hub name; code that comes with a checkpoint is never run.
        device: of torch.

    Raises:
        ConfigError: when no trained classifier of two labels or more is there.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                source, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"verifier: transformers finds no sequence classifier in {source!r} ({str(error).splitlines()[0]}); name a "
                "folder or a hub name that holds one, tokenizer included, and download it first where there is no network"
            ) from None
        if loaded["missing_keys"]:  # a bare language model would get a random head with no more than a warning
            raise ConfigError(
                f"verifier: {source!r} is not trained as a classifier: it lacks {sorted(loaded['missing_keys'])}; name a "
                "fine-tuned checkpoint"
            )
        self.labels: tuple[str, ...] = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        if len(self.labels) < 2:
            raise ConfigError(
                f"verifier: {source!r} has {len(self.labels)} output, and a classifier has two or more; name another one"
            )
        self._multi = model.config.problem_type == "multi_label_classification"
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(N, L) float64 in [0, 1]."""
        probs_NL = np.zeros((len(texts), len(self.labels)))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            encoded = self._tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=min(MAX_TOKENS, self._tokenizer.model_max_length),
                return_tensors="pt",
            )
            logits_BL = self._model(**encoded.to(self._model.device)).logits.double()
            probs_NL[rows] = (logits_BL.sigmoid() if self._multi else logits_BL.softmax(-1)).cpu().numpy()
        return probs_NL
