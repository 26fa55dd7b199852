"""A trained model as a folder that needs no code of ours, with a card.

    python -m evaluation.export checkpoint=RUN out=FOLDER [form=omni|thinker] [base=FOLDER_OR_HUB_NAME] [licence=apache-2.0]

form=omni      (the default) a full Qwen2.5-Omni for transformers and vLLM; what is not the thinker comes from `base`
form=thinker   the thinker alone, an adapter merged

Without `base`, a run that started from a full checkpoint takes that; the tiny model has none, and its full checkpoint cannot speak.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evaluation.model_card import card
from evaluation.predict import find_checkpoint
from models.export import FORMS, check_whole, export
from models.load import ModelConfig, base_checkpoint, load_model, load_processor
from models.omni_base import Base, open_base
from runtime.config import check_sections, section
from runtime.errors import ConfigError, UndertoneError
from runtime.files import write_text
from runtime.main import quiet
from runtime.secrets import redact_text

USAGE = "checkpoint=RUN out=FOLDER [form=omni|thinker] [base=FOLDER_OR_HUB_NAME] [licence=apache-2.0]"
SHARD = 4_000_000_000
"""Bytes of a file of weights: the hub and small machines cope with it."""


def export_run(checkpoint: Path, folder: Path, form: str, base: str | None, licence: str | None) -> None:
    """Write the folder with its card, whole or not at all.

    Args:
        checkpoint: a run folder, or a checkpoint inside of one.
        folder: must not be there yet.
        form: one of `models.export.FORMS`.
        base: where the parts come from that are not the thinker; None for what training started from.
        licence: of the model, as Hugging Face spells it; None leaves it out of the card.

    Raises:
        UndertoneError: see `models.export.export`.
    """
    run, final = find_checkpoint(checkpoint)
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    model_cfg = section(cfg, "model", ModelConfig)
    if model_cfg.family != "omni":
        raise ConfigError(
            f"checkpoint: {final} holds a text model ({model_cfg.name}); what is exported is an omni thinker"
        )
    if folder.exists():
        raise ConfigError(f"out: {folder} is there already; name another folder, or remove this one")
    full = _base(model_cfg, base) if form == "omni" else None
    model = load_model(model_cfg, final, train=False)
    check_whole(final, model)
    text = card(run, final, cfg, form, spoken=full is not None, licence=licence)
    # what is saved on the way of a stage has no processor; nothing is trained in it, so that of the start is the same
    whole = (final / "processor_config.json").is_file()
    export(
        model,
        load_processor(model_cfg, final if whole else base_checkpoint(model_cfg)),
        folder,
        form,
        full,
        SHARD,
        lambda beside: write_text(beside / "README.md", text),
    )


def _base(model: ModelConfig, base: str | None) -> Base | None:
    if base is not None:
        return open_base(base)
    return None if model.source == "tiny_omni" else open_base(model.source)


def main(argv: Sequence[str]) -> None:
    """Read the settings and write the folder.

    Raises:
        UndertoneError: for a bad setting, checkpoint or base.
    """
    if bad := [a for a in argv if "=" not in a]:
        raise ConfigError(f"{' '.join(bad)}: settings are key=value; write {USAGE}")
    given = {key: value for key, _, value in (a.partition("=") for a in argv)}
    check_sections(OmegaConf.create(given), ["checkpoint", "out", "form", "base", "licence"])
    for key in ("checkpoint", "out"):
        if not given.get(key):
            raise ConfigError(f"{key}: required and not given; write {USAGE}")
    form = given.get("form", "omni")
    if form not in FORMS:
        raise ConfigError(f"form: one of {FORMS}; got {form!r}; mend the command")
    if form == "thinker" and "base" in given:
        raise ConfigError("base: the thinker alone takes nothing from a base; leave it out, or use form=omni")
    folder = Path(given["out"])
    export_run(Path(given["checkpoint"]), folder, form, given.get("base"), given.get("licence"))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{form} in {folder}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    quiet()
    try:
        main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {redact_text(str(error))}")
