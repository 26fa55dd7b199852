"""Log-probabilities of groups of completions, from one shared prompt each, once shown to be those of the plain forward."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from models.processor import Encoded, Processor
from models.shared_prefix import Formulation, SharedPrefix, packable, score, thinker
from rl.config import RLConfig
from runtime.errors import ConfigError

CHECKED = 2
"""Groups that are scored both ways."""

LARGEST = 1e-4
"""Allowed difference of any log-probability in float32, where formulations differ by rounding: about 1e-6."""

MEAN = 5e-2
"""Allowed mean difference in bfloat16, where single tokens may differ by any amount. SmolLM2-135M on a CPU: 3e-2 between
formulations that agree to 1e-5 in float32, 7e-2 with positions one too high, 1 to 3 with a wrong mask."""


def formulation(model: torch.nn.Module, settings: RLConfig) -> Formulation:
    """How to score, by `rl.scoring`; `auto` takes `packed` where it can be had: it is exact, and never slower than `cache`.

    Raises:
        ConfigError: when `packed` is asked for and the model's attention does not allow it.
    """
    match settings.scoring:
        case "auto" if packable(model):
            return "packed"
        case "auto":
            return "rows" if settings.gradient_checkpointing else "cache"
        case "packed" if not packable(model):
            raise ConfigError(
                "rl.scoring=packed: needs the attention kernel sdpa, without a sliding window; got "
                f"model.attn={thinker(model).config.get_text_config()._attn_implementation}; set model.attn=sdpa, or "
                "rl.scoring=auto"
            )
        case "packed":
            return "packed"
        case "cache":
            return "cache"
        case _:
            return "rows"


class Scorer:
    """Scores in the chosen formulation; if its first batch is not scored as row by row, in rows from then on.

    Args:
        accelerator: of the trainer.
        processor: pads the prompts.
        chosen: the formulation to start with.
        note: takes the name and the value of a metric.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        processor: Processor,
        chosen: Formulation,
        note: Callable[[str, float], None],
    ) -> None:
        self.accelerator = accelerator
        self.processor = processor
        self.formulation: Formulation = chosen
        self.verified = chosen == "rows"
        self.note = note

    def score(
        self,
        model: torch.nn.Module,
        prompts: Sequence[Encoded],
        owners_N: torch.Tensor,
        ids_NC: torch.Tensor,
        mask_NC: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Score N completions of B prompts, `owners_N` the index of each one's; see `models.shared_prefix.score`."""
        if not self.verified:
            self._verify(model, prompts, owners_N, ids_NC, mask_NC)
        return self._score(self.formulation, model, prompts, owners_N, ids_NC, mask_NC)

    def _score(
        self,
        formulation: Formulation,
        model: torch.nn.Module,
        prompts: Sequence[Encoded],
        owners_N: torch.Tensor,
        ids_NC: torch.Tensor,
        mask_NC: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if formulation == "rows":
            prompts, owners_N = [prompts[b] for b in owners_N.tolist()], torch.arange(len(ids_NC), device=ids_NC.device)
        batch = self.processor.collate(prompts, ids_NC.device)
        with self.accelerator.autocast():
            return score(model, SharedPrefix(batch, ids_NC, mask_NC, owners_N, formulation))

    @torch.no_grad()
    def _verify(
        self,
        model: torch.nn.Module,
        prompts: Sequence[Encoded],
        owners_N: torch.Tensor,
        ids_NC: torch.Tensor,
        mask_NC: torch.Tensor,
    ) -> None:
        """Hold the formulation against rows on a few groups, and give it up, on all ranks, where they disagree on one."""
        few, rows = prompts[:CHECKED], owners_N < CHECKED
        training = model.training
        model.eval()  # an adapter's dropout would make any two forwards differ
        found_NC, plain_NC = (
            self._score(f, model, few, owners_N[rows], ids_NC[rows], mask_NC[rows])[0]
            for f in (self.formulation, "rows")
        )
        model.train(training)
        difference = (found_NC - plain_NC)[mask_NC[rows].bool()].abs()
        policy = self.accelerator.unwrap_model(model)
        assert isinstance(policy, torch.nn.Module)
        if thinker(policy).dtype == torch.float32:
            what, figure, allowed = "at most", difference.max(), LARGEST
        else:
            what, figure, allowed = "on average", difference.mean(), MEAN
        worst = torch.tensor(gather_object([figure.item()])).max().item()  # over all ranks
        agree = worst <= allowed  # NaN does not
        self.note("scoring/verified", float(agree))
        self.note("scoring/difference", worst)
        self.verified = True
        if not agree:
            self.accelerator.print(
                f"rl.scoring={self.formulation}: log-probabilities differ by {worst:.1e} {what} from those of the plain forward, "
                f"one row for each completion, on the first {len(few)} groups; allowed is {allowed:.0e}. From now on every row is "
                "scored with its own copy of the prompt, which is right and slower. Likely cause: an attention or position scheme "
                "that models/shared_prefix.py does not know; rl.scoring=rows skips this check",
                flush=True,
            )
            self.formulation = "rows"
