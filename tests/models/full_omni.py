"""A full Omni checkpoint with a tiny talker and tiny voices, for what is put together with a trained thinker."""

from pathlib import Path

import torch
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
    Qwen2_5OmniTalkerConfig,
    Qwen2_5OmniToken2WavConfig,
)

PARTS = ("thinker.", "talker.", "token2wav.")


def write_full(folder: Path, thinker: Qwen2_5OmniThinkerForConditionalGeneration, shard: str = "500KB") -> Path:
    """The config of `thinker`, random weights everywhere, in files of `shard`."""
    width = thinker.lm_head.in_features
    talker = Qwen2_5OmniTalkerConfig(
        vocab_size=64,
        embedding_size=width,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
    )
    voices = Qwen2_5OmniToken2WavConfig(
        dit_config={
            **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16, "emb_dim": 16},
            **{"num_embeds": 65, "mel_dim": 16, "enc_emb_dim": 8, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24]},
            **{"enc_attention_channels": 8, "enc_se_channels": 8},
        },
        bigvgan_config={
            **{"mel_dim": 16, "upsample_initial_channel": 32, "upsample_rates": [2, 2]},
            **{"upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]},
        },
    )
    torch.manual_seed(7)
    full = Qwen2_5OmniForConditionalGeneration(
        Qwen2_5OmniConfig(
            thinker_config=thinker.config.to_dict(), talker_config=talker.to_dict(), token2wav_config=voices.to_dict()
        )
    )
    full.save_pretrained(folder, max_shard_size=shard)
    torch.save({"Chelsie": {"bos_token": 1}}, folder / "spk_dict.pt")
    return folder
