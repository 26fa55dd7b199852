"""Hint-GRPO on TRL: its losses, accumulation and checkpoints; our rollouts, advantages and shared-prompt scoring.

Four methods of `GRPOTrainer` are touched. `rollout_func` (an argument) samples and hints. `compute_loss` (public) and
`_generate_and_score_completions` carry each group's prompt and media beside its rows: tensors are viewed as (B, G, ...), so
that TRL's shuffling and splitting, which act on axis 0, move whole groups. `_get_per_token_logps_and_entropies` scores the
completions of a group on one shared prompt (rl/scoring.py), or on two where a hint stands in the question.

What is learnt of a hint, by `hint.prefix`:

    masked      nothing: it is context, which `env_mask` takes out of the loss; the row is scored where it was written
    likelihood  besides, forced openings get a likelihood term whose weight anneals (UFT, arXiv 2505.16984)
    weighted    the row is taken for a sample of the policy without a hint, importance-weighted by what it was written with: a
                forced token was written with probability 1, and a hint in the question is left out of the context
                (mechanism C of the literature: LUFFY, Guide-GRPO); clipped as TRL's loss clips every ratio
    learnt      forced tokens carry the row's advantage like its own, as if the policy had written them: a heuristic

Axes: B prompts, G siblings, N = B*G rows, C completion length (hint included).
"""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset as HFDataset
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerState
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from evaluation.grading import RewardConfig
from models.engine.base import MakeEngine, Sampling
from models.engine.hf import HFEngine
from models.fingerprint import Fingerprint, Sight, watch
from models.processor import Encoded, Processor
from models.resume import Resumable
from models.shared_prefix import attach
from rl import parity
from rl.advantage import advantages, reward_of, rewards_to_compare
from rl.config import HintConfig, RLConfig
from rl.difficulty import DifficultySampler
from rl.hints.control import HintState
from rl.memory import Memory
from rl.metrics import Meter, add_rollouts, cut_short, rollout_lines
from rl.rollout import Group, Hinting, Rollout, roll_out, solved
from rl.scoring import Scorer, formulation
from runtime.cluster import PLAIN, ClusterConfig, deepspeed_settings
from runtime.errors import ParityError
from runtime.files import write_jsonl
from tasks.base import Grade, Score, Task
from tasks.record import Record


def _dealt(contexts: Sequence[Sequence[Encoded]], context_N: torch.Tensor) -> tuple[list[Encoded], torch.Tensor]:
    """The contexts of some groups that any row is scored in, and the index of each row's.

    Args:
        contexts: [B] of each group.
        context_N: N / B rows for each group: which of its contexts each is scored in.
    """
    size = len(context_N) // len(contexts)
    wanted = [(row // size, which) for row, which in enumerate(context_N.tolist())]
    used = sorted(set(wanted))
    owners = [used.index(place) for place in wanted]
    return [contexts[group][which] for group, which in used], torch.tensor(owners, device=context_N.device)


def total(prompts: list[str], reward: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: the rewards that the rollout already computed."""
    return reward


class HintGRPOTrainer(Resumable, GRPOTrainer):
    """GRPO whose stuck groups are hinted.

    Args:
        task: prompts and grading.
        records: [R] training records.
        root: their data root.
        processor: encodes the prompts.
        settings: the stage's settings.
        hint: whom to hint and how hinted rows count.
        weights: of the reward parts.
        references: verified chains by uid, from which some strategies take their hints; may lack any.
        rollouts: folder that gets one `step_*.jsonl` per generation, with everything the model said.
        engine: makes the engine for policy and processor, once distributed training is set up.
        grade: scores completions; `task.grade`, or what reads their explanations too.
    """

    args: GRPOConfig
    num_generations: int

    def __init__(
        self,
        model: torch.nn.Module,
        args: GRPOConfig,
        *,
        task: Task,
        records: Sequence[Record],
        root: Path,
        processor: Processor,
        settings: RLConfig,
        hint: HintConfig,
        weights: RewardConfig,
        references: Mapping[str, str],
        rollouts: Path,
        train_dataset: Any,
        callbacks: list[TrainerCallback],
        engine: MakeEngine,
        grade: Grade,
    ) -> None:
        attach(model)
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=args,
            reward_funcs=[total],
            train_dataset=train_dataset,
            processing_class=processor.tokenizer,
            callbacks=callbacks,
            rollout_func=lambda uids, _: self.roll_out(uids),
        )
        self.remove_callback(PrinterCallback)  # MetricsCallback prints a line for people instead
        if self.ref_model is not None:
            reference = self.accelerator.unwrap_model(self.ref_model)
            assert isinstance(reference, torch.nn.Module)
            attach(reference)
        self.task, self._grade, self.root, self.processor = task, grade, root, processor
        self.settings, self.hint, self.reward_weights_by_part = settings, hint, weights.weights
        self.rollouts = rollouts
        self.engine = engine(self.policy, processor)
        self.record_of = {record.uid: record for record in records}
        self.parity: dict[str, float] = {}
        """The latest reading of the parity gate."""
        self.references = references
        self.memory = Memory(HintState.start(hint), settings.budget)
        self.add_callback(self.memory)
        self._groups: list[Group] = []
        self._contexts: list[tuple[Encoded, ...]] = []
        """Prompts of the rows that are scored next: of all groups right after sampling, of a micro-batch's in its loss."""
        self._context_N = torch.zeros(0, dtype=torch.long)
        """Which of its group's contexts each of these rows is scored in."""
        self._given_NC: torch.Tensor | None = None
        """Which tokens of these rows a hint has forced."""
        self._learnt_NC: torch.Tensor | None = None
        """Their log-probabilities, with a gradient, while a loss is computed."""
        self._engine_logps: torch.Tensor | None = None
        self._check_due = False
        self.meter = Meter()
        self._visited: list[Group] = []
        """Groups of this step, those that were replaced included."""
        self._generated = 0
        """Tokens of this step on this rank."""
        self._tokens: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.scorer = Scorer(self.accelerator, processor, formulation(model, settings), self.meter.add)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        rows, steps = self.args.generation_batch_size, self.args.steps_per_generation
        assert rows and steps  # GRPOConfig works them out
        return DifficultySampler(
            list(self.record_of.values()),
            self.memory.solve,
            self.settings.order,
            mini_repeat_count=self.num_generations,
            batch_size=rows // self.num_generations,
            repeat_count=self.num_iterations * steps,
            seed=self.args.seed,
        )

    def go_on(self, folder: Path) -> None:
        """See `Resumable.go_on`; where there is nothing left to train, the memory is taken up all the same."""
        super().go_on(folder)
        self.memory.recall(self.state)

    def finished(self, state: TrainerState) -> bool:
        """At the last step, or where the budget of tokens is used up."""
        states: Any = state.stateful_callbacks
        spent, budget = states[Memory.__name__]["attributes"]["generated"], self.settings.budget
        return super().finished(state) or (budget is not None and spent >= budget)

    # Sampling

    def roll_out(self, uids: Sequence[str]) -> dict[str, Any]:
        """TRL's rollout function.

        Args:
            uids: [N] uid of each row's record, every one repeated for its siblings.

        Returns:
            Ids, engine log-probabilities (None, later NaN, on hint tokens), loss mask and rewards of the N rows.
        """
        size = self.num_generations
        start = time.perf_counter()
        with self.whole() as model:
            training = model.training
            model.eval()
            self.engine.follow(model, self.state.global_step)
            self._groups = self._sample([self.record_of[uid] for uid in uids[::size]])
            model.train(training)
        groups = self._groups
        rows = [r for g in groups for r in g.rollouts]
        self._seconds["rollout"] += time.perf_counter() - start
        self._tokens["rollout"] += sum(g.tokens for g in groups)
        self._learn_of_hints()
        self._log_groups()
        self._contexts = [g.contexts for g in groups]
        self._context_N = torch.tensor([self._scored_in(r) for r in rows], device=self.accelerator.device)
        learnt = int(self.hint.prefix in ("learnt", "weighted"))
        return {
            "prompt_ids": [g.contexts[0].ids.tolist() for g in groups for _ in range(size)],
            "completion_ids": [[*r.hint_ids, *r.completion.token_ids] for r in rows],
            "logprobs": [[None] * len(r.hint_ids) + list(r.completion.logprobs) for r in rows],
            "env_mask": [[learnt] * len(r.hint_ids) + [1] * len(r.completion.token_ids) for r in rows],
            "reward": [self._reward(r) for r in rows],
        }

    def grade(self, records: Sequence[Record], completions: Sequence[str]) -> list[Score]:
        """[N] scores of [N] completions, as the argument `grade`; the time that it takes is noted."""
        start = time.perf_counter()
        scores = self._grade(records, completions)
        self._seconds["grading"] += time.perf_counter() - start
        return scores

    def _sample(self, records: Sequence[Record]) -> list[Group]:
        """Groups for these records; with `rl.no_signal=resample`, others in place of those whose rewards are all alike.

        Other prompts are drawn at random, as many as have to be replaced, `rl.resamples` times at most (dynamic sampling: DAPO,
        arXiv 2503.14476, which goes on until the batch is full).
        """
        hints = self.memory.hints
        hinting = Hinting(self.hint, hints, hints.probability(self.hint, *self._progress()), self.references)
        sampling = Sampling(self.settings.max_new_tokens, self.settings.temperature)

        def sampled(records: Sequence[Record]) -> list[Group]:
            size = self.num_generations
            groups = roll_out(self.task, self.grade, self.engine, self.root, records, size, sampling, hinting)
            self._generated += sum(g.tokens for g in groups)
            self._visited += groups
            return groups

        groups, everything, replaced = sampled(records), list(self.record_of.values()), 0
        for _ in range(self.settings.resamples if self.settings.no_signal == "resample" else 0):
            dead = [b for b, group in enumerate(groups) if not self._advantages([group]).any()]
            if not dead:
                break
            taken = {g.record.uid for g in groups}
            others = [r for r in everything if r.uid not in taken]
            drawn = [others[i] for i in torch.randperm(len(others))[: len(dead)].tolist()]
            replaced += len(drawn)
            for b, group in zip(dead, sampled(drawn) if drawn else [], strict=False):
                groups[b] = group
        if self.settings.no_signal == "resample":
            self.meter.add("groups/resampled", replaced)
        return groups

    def _progress(self) -> tuple[float, int]:
        """Where the schedules of hints are, and their end: in steps, or as far as the budget is spent where that is further."""
        step, steps, budget = self.state.global_step, self.args.max_steps, self.settings.budget
        spent = 0.0 if budget is None else min(1.0, self.memory.generated / budget)
        return max(step, spent * (steps - 1)), steps

    def _scored_in(self, rollout: Rollout) -> int:
        """The context that a row is scored in: where it was written, or without its hint."""
        return 0 if self.hint.prefix == "weighted" else rollout.context

    def _reward(self, rollout: Rollout) -> float | None:
        return reward_of(rollout, self.reward_weights_by_part, self.hint.count_leaked)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[assignment]
        groups = self._groups
        rows = [r for g in groups for r in g.rollouts]
        size, device = self.num_generations, out["advantages"].device
        out["advantages"] = self._advantages(groups).flatten().to(device)
        out["given"] = torch.zeros_like(out["completion_mask"], dtype=torch.bool)
        for given_C, row in zip(out["given"], rows, strict=True):
            given_C[: len(row.hint_ids)] = True
        if self.hint.prefix == "weighted":
            # what each token was written with; forced ones with certainty
            written = out["sampling_per_token_logps"]
            out["old_per_token_logps"] = written.masked_fill(out["given"] | ~out["completion_mask"].bool(), 0.0)
            # rows that are scored elsewhere have nothing to be compared with by the parity gate
            elsewhere_N = torch.tensor([self._scored_in(r) != r.context for r in rows], device=device)
            out["sampling_per_token_logps"] = written.masked_fill(elsewhere_N[:, None], torch.nan)
        out["context"] = self._context_N.to(device)
        for name, value in out.items():
            if torch.is_tensor(value) and value.ndim:
                out[name] = value.view(len(groups), size, *value.shape[1:])
        out |= {
            "contexts": [g.contexts for g in groups],
            "uids": [g.record.uid for g in groups],
            "seen": [g.seen for g in groups],
        }
        alive = (out["advantages"] != 0).any(1).tolist()
        self.meter.add_mean("reward/groups_without_signal", [not a for a in alive])
        return self._without(out, alive) if self.settings.no_signal == "drop" else out

    def _advantages(self, groups: Sequence[Group]) -> torch.Tensor:
        """(B, G) of all rollouts."""
        return advantages(
            [rewards_to_compare(g.rollouts, self.reward_weights_by_part, self.hint.count_leaked) for g in groups],
            [[r.hinted for r in g.rollouts] for g in groups],
            baseline=self.hint.baseline,
            scale=self.settings.scale,
        )

    def _without(self, out: dict[str, Any], alive: Sequence[bool]) -> dict[str, Any]:
        """The batch without groups that teach nothing, except for as many as its micro-batches need to be of one size."""
        parts = self.settings.accumulation
        least = max(parts, -(-sum(alive) // parts) * parts)
        order = sorted(range(len(alive)), key=lambda b: not alive[b])  # keeps the order of equals
        kept = sorted(order[:least])
        out = {
            name: [value[b] for b in kept] if isinstance(value, list) else value[kept] if value.ndim else value
            for name, value in out.items()
        }
        learnt: Any = self.accelerator.gather((out["completion_mask"] * out["tool_mask"]).sum())
        return out | {"num_items_in_batch": learnt.sum()}

    # Learning

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """TRL's loss over the rows of whole groups."""
        inputs = dict(inputs)
        contexts, uids, seen = inputs.pop("contexts"), inputs.pop("uids"), inputs.pop("seen")
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.ndim >= 2:
                inputs[name] = value.flatten(0, 1)
        # the first step of a batch of completions at or after each multiple: in its second iteration the policy has moved,
        # and later micro-batches add nothing new
        fresh = self._step % (self.settings.accumulation * self.num_iterations) == 0
        self._check_due = fresh and self.state.global_step % self.settings.parity_every < self.num_iterations
        # ZeRO-3 collects all weights for it, which must not happen between a forward and its backward
        drops = self._silenced_drops(inputs, uids) if self._check_due and self.sharded else None
        self._contexts = contexts
        self._context_N, self._given_NC = inputs.pop("context"), inputs.pop("given")
        start = time.perf_counter()
        self._engine_logps, self._completion_mask = inputs["sampling_per_token_logps"], inputs["completion_mask"]
        with ExitStack() as stack:
            sight = stack.enter_context(watch(self.policy, learning=True)) if self._check_due else None
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._engine_logps = None
        if self.hint.prefix == "likelihood":
            loss = loss + self._likelihood() / self.current_gradient_accumulation_steps
        self._seconds["loss"] += time.perf_counter() - start
        self._tokens["loss"] += sum(len(p.ids) for of in self._contexts for p in of) + int(
            inputs["completion_mask"].sum()
        )
        if sight is not None:
            self._check_parity(seen, sight, inputs, uids, drops)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Score completions on their groups' own prompts, media included; the prompt half of `input_ids` is not used."""
        size = len(input_ids) // len(self._contexts)
        step = max(1, (batch_size or len(input_ids)) // size)
        logps, entropies = [], []
        for start in range(0, len(self._contexts), step):
            part = self._contexts[start : start + step]
            rows = slice(start * size, (start + len(part)) * size)
            prompts, owners_N = _dealt(part, self._context_N[rows])
            ids_NC, mask_NC = input_ids[rows, -logits_to_keep:], attention_mask[rows, -logits_to_keep:]
            logps_nC, entropy_nC = self.scorer.score(model, prompts, owners_N, ids_NC, mask_NC)
            logps.append(logps_nC)
            entropies.append(entropy_nC)
        logps_NC = torch.cat(logps)
        if self._engine_logps is not None:
            self._learnt_NC = logps_NC
            self._read_logps(logps_NC, self._engine_logps)
        return logps_NC, torch.cat(entropies) if compute_entropy else None, None

    def _likelihood(self) -> torch.Tensor:
        """Weighted mean over rows of the negative log-likelihood of a token that a hint has forced, 0 in rows without one."""
        assert self._learnt_NC is not None and self._given_NC is not None
        weight = self.memory.hints.likelihood(self.hint, *self._progress())
        each_N = -(self._learnt_NC * self._given_NC).sum(1) / self._given_NC.sum(1).clamp(min=1)
        self.meter.add("hint/likelihood_weight", weight)
        return weight * each_N.mean()

    # Gates and metrics

    def _read_logps(self, logps_NC: torch.Tensor, engine_NC: torch.Tensor) -> None:
        """Parity of engine and trainer, and how much the hinted rows rely on their hints.

        `hint/reliance`: mean log p of hint and written tokens together, minus that of the written tokens alone, under the
        prompt without any hint given; the more negative, the less the policy would have opened that way by itself (HiLL,
        arXiv 2604.00698, has the hint in the prompt instead). `hint/prefix_logp`: log p of the whole hint.
        """
        if self._check_due:
            found = self._agreement = parity.compare(logps_NC, engine_NC, self._completion_mask)
            self.parity |= {"logp_mean": found.mean, "logp_max": found.largest}
            self.meter.add("parity/logp_mean", found.mean, found.tokens)
        given_NC = self._given_NC
        if given_NC is not None and given_NC.any():
            rows = given_NC.any(1)
            written_NC = self._completion_mask.bool() & ~given_NC
            logps = logps_NC.detach()
            own = (logps * written_NC).sum(1) / written_NC.sum(1)
            whole = (logps * self._completion_mask).sum(1) / self._completion_mask.sum(1)
            self.meter.add_mean("hint/reliance", (whole - own)[rows].tolist())
            self.meter.add_mean("hint/prefix_logp", (logps * given_NC).sum(1)[rows].tolist())

    def _check_parity(
        self,
        seen: Sequence[Fingerprint],
        sight: Sight,
        inputs: Mapping[str, Any],
        uids: Sequence[str],
        drops: dict[str, tuple[float, float]] | None,
    ) -> None:
        """Ask the gate. What goes wrong on one rank is raised on all: the others would wait for that one for ever.

        Raises:
            ParityError: see `rl/parity.py`.
        """
        step, problem = self.state.global_step, None
        try:  # in this order: the first ones name the culprit
            parity.check_media(seen, sight.whole(), uids, step)
            parity.check_drops(self._silenced_drops(inputs, uids) if drops is None else drops, step)
            parity.check_logps(self._agreement, self.settings.parity_tolerance, step)
        except ParityError as error:
            problem = str(error)
        problems = gather_object([problem])
        for rank, text in enumerate(problems):
            if text:
                raise ParityError(text if len(problems) == 1 else f"rank {rank}: {text}")

    def _silenced_drops(self, inputs: Mapping[str, Any], uids: Sequence[str]) -> dict[str, tuple[float, float]]:
        """What silencing each modality does to the likelihood of what was said; see `parity.silenced_drops`."""
        few = slice(0, 2)  # prompts: enough to see whether anything changes at all
        size = len(inputs["completion_ids"]) // len(uids)
        rows = slice(0, len(uids[few]) * size)
        ids_NC, mask_NC = inputs["completion_ids"][rows], inputs["completion_mask"][rows]
        records = [self.record_of[uid] for uid in uids[few]]
        # the bare model: ranks that show different modalities score more or less often, and must not wait for each other
        with self.whole() if self.sharded else nullcontext(self.policy) as policy, torch.no_grad():

            def mean_logp(prompts: Sequence[Encoded]) -> torch.Tensor:
                self._contexts = [(prompt,) for prompt in prompts]
                self._context_N = torch.zeros(len(ids_NC), dtype=torch.long, device=ids_NC.device)
                logps_NC, _, _ = self._get_per_token_logps_and_entropies(policy, ids_NC, mask_NC, ids_NC.shape[1])
                return ((logps_NC * mask_NC).sum(1) / mask_NC.sum(1)).view(-1, size).mean(1)

            drops = parity.silenced_drops(self.task, records, self.root, self.processor, mean_logp)
        for modality, (drop, change) in drops.items():
            self.parity |= {f"{modality}_drop": drop, f"{modality}_change": change}
            self.meter.add(f"parity/{modality}_drop", drop, len(records))
        return drops

    def counted(self) -> dict[str, float]:
        """The mean of each metric since the last row of the log, over all ranks; all of them must call."""
        return self.meter.means()

    def _learn_of_hints(self) -> None:
        """Let schedule, controller and difficulty see this step's rollouts, of all ranks."""
        unhinted = [[solved(s) for s in g.unhinted] for g in self._visited]
        hinted = [solved(r.score) for g in self._visited for r in g.rollouts if r.hinted]
        counts = (
            sum(any(x) for x in unhinted),
            sum(None not in x and len(x) > 0 for x in unhinted),
            sum(bool(x) for x in hinted),
            len(hinted),
            self._generated,
        )
        visits = [(g.record.uid, outcomes) for g, outcomes in zip(self._visited, unhinted, strict=True)]
        for uid, outcomes in gather_object(visits):
            self.memory.solve.note(uid, outcomes, self.state.global_step)
        solvable, asked, helped, told, generated = (sum(of) for of in zip(*gather_object([counts]), strict=True))
        hints = self.memory.hints
        self.meter.add("hint/probability", hints.probability(self.hint, *self._progress()))
        if self.hint.strategy == "adaptive":
            self.meter.add("hint/length", hints.length)
        hints.learn(self.hint, (solvable, asked), (helped, told))
        self.memory.generated += generated
        self._generated = 0

    def _log_groups(self) -> None:
        """Note metrics, and write the rollouts themselves."""
        visited, self._visited = self._visited, []
        add_rollouts(self.meter, self._groups, visited)
        if self.state.global_step == 0 and (warning := cut_short(self._groups, self.settings.max_new_tokens)):
            self.accelerator.print(warning, flush=True)
        name = f"step_{self.state.global_step:06d}_rank{self.accelerator.process_index}.jsonl"
        write_jsonl(self.rollouts / name, rollout_lines(self._groups, self._reward))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our own metrics to the logged row: tokens per second and device by phase, and what grading takes of rollouts."""
        for phase, tokens in self._tokens.items():
            self.meter.add(f"speed/{phase}_tokens_per_s", tokens / self._seconds[phase], self._seconds[phase])
        if rollout := self._seconds["rollout"]:
            self.meter.add("speed/grading_share", self._seconds["grading"] / rollout, rollout)
        self._seconds.clear()
        self._tokens.clear()
        logs |= self.counted() | {"tokens/generated": self.memory.generated}
        self.meter.clear()
        super().log(logs, start_time)


def make_trainer(
    name: str,
    model: torch.nn.Module,
    processor: Processor,
    task: Task,
    records: Sequence[Record],
    root: Path,
    settings: RLConfig,
    hint: HintConfig,
    weights: RewardConfig,
    references: Mapping[str, str],
    folder: Path,
    seed: int,
    callbacks: list[TrainerCallback],
    engine: MakeEngine = HFEngine,
    grade: Grade | None = None,
    cluster: ClusterConfig = PLAIN,
) -> HintGRPOTrainer:
    """Settings of ours to settings of TRL's, in one place."""
    cuda = torch.cuda.is_available()
    args = GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        run_name=name,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.prompts // settings.accumulation * settings.group,
        gradient_accumulation_steps=settings.accumulation,
        num_generations=settings.group,
        learning_rate=settings.lr,
        # plain "constant" would ignore the warmup
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        loss_type=settings.loss,
        # for cispo, an upper bound of the ratio itself (ScaleRL, arXiv 2510.13786), not its distance from 1
        epsilon_high=5.0 if settings.loss == "cispo" else None,
        beta=settings.beta,
        scale_rewards="none",  # advantages are our own; see rl/advantage.py
        temperature=settings.temperature,
        max_completion_length=settings.max_new_tokens,
        num_iterations=settings.iterations,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=next(model.parameters()).dtype == torch.bfloat16,
        use_cpu=not cuda,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=settings.log_every,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=cuda,
        deepspeed=deepspeed_settings(cluster),
        ddp_find_unused_parameters=True,  # a rank whose prompts hold no sound has no gradient for the audio tower
    )
    return HintGRPOTrainer(
        model,
        args,
        task=task,
        records=records,
        root=root,
        processor=processor,
        settings=settings,
        hint=hint,
        weights=weights,
        references=references,
        rollouts=folder / "rollouts",
        train_dataset=HFDataset.from_dict({"prompt": [r.uid for r in records]}),
        callbacks=callbacks,
        engine=engine,
        grade=grade or task.grade,
    )
