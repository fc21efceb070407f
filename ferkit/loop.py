"""One epoch of training: pictures, augmentation, forward, backward, average. Nothing in it waits for the device.

Everything random is drawn from generators keyed on (seed, epoch, step), so that neither a resume nor the number of
processes changes what is drawn.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ferkit.augment import augment, draw_mixing, get_policy, send
from ferkit.checkpoint import State
from ferkit.faces import Faces
from ferkit.feed import Feed
from ferkit.losses import Objective
from ferkit.parallel import Team
from ferkit.precision import autocast
from ferkit.recipe import Recipe
from ferkit.schedule import learning_rate
from ferkit.tuning import changes_at, fix


class Step(nn.Module):
    """A forward pass as one call, which torch.compile and DistributedDataParallel want."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 1, H, W) in [0, 1] -> logits (N, n_classes) and the features that they come from."""
        features = self.model.forward_features(self.model.input_spec(x))
        return self.model.forward_head(features), features


class Loop:
    """The epochs of one run; pictures and targets are brought to the device once."""

    def __init__(
        self, recipe: Recipe, training: Faces, state: State, device: torch.device, team: Team = Team(),  # noqa: B008
        compiled: bool = False,
    ) -> None:  # fmt: skip
        if recipe.batch_size < 2 * team.size:
            raise ValueError(f"batch_size {recipe.batch_size} is too small for {team.size} processes")
        if compiled and team.size > 1:
            raise ValueError("--compile is for one process; several train without")
        self.recipe, self.state, self.device, self.team, self.compiled = recipe, state, device, team, compiled
        self.n, self.policy = len(training), get_policy(recipe.policy)
        self.feed = Feed(training, recipe.batch_size, device)
        self.objective = Objective(recipe, training, device)
        self.step: nn.Module | None = None

    def epoch(self, tell: Callable[[float], None]) -> float:
        """Train the state's epoch; the mean loss a sample, in nats. `tell` hears the share that is done."""
        recipe, state, epoch = self.recipe, self.state, self.state.epoch
        self._prepare(epoch)
        n_batches, batches = self.feed.epoch(generator(recipe.seed, epoch))
        average = Average(state.ema, state.model)
        total = torch.zeros((), device=self.device)
        for step, (images, at, rows) in enumerate(batches):
            for group in state.optimizer.param_groups:
                group["lr"] = group.get("rate", 1.0) * learning_rate(recipe, epoch + step / n_batches, state.history)
            total += self._train(images, at, rows, step)
            average.update(_decay(recipe, epoch, step, n_batches))
            tell(step / n_batches)
        return self.team.sum(total).item() / self.n

    def _prepare(self, epoch: int) -> None:
        """Training mode; which parts are fixed or free DistributedDataParallel has to be told anew."""
        fix(self.state.model, self.recipe, epoch)
        if self.step is None or changes_at(self.recipe, epoch):
            step = Step(self.state.model)
            self.step = self.team.wrap(torch.compile(step, dynamic=False) if self.compiled else step)

    def _train(self, images: Tensor, at: Tensor, rows: Tensor, step: int) -> Tensor:
        """One step on the batch images[at], which are the training faces `rows`; this process's summed loss."""
        recipe, state, n = self.recipe, self.state, len(at)
        seed, side = (recipe.seed, state.epoch, step), recipe.side(state.epoch)
        torch.manual_seed(key(*seed))  # dropout
        ours = torch.arange(n)[self.team.share(n)]
        mixing = draw_mixing(self.policy, n, side, generator(*seed, 1))
        partners = ours if mixing is None else mixing.partner[ours]
        needed, back = torch.cat([ours, partners]).unique(return_inverse=True)  # with others' that ours are mixed with
        x = augment(images[at[self._here(needed)]], self.policy, generator(*seed), side, needed, n)
        if mixing:
            x = mixing.images(*x[self._here(back)].tensor_split(2))
        with autocast(state.precision, self.device), self.team.whole_batch(n):
            logits, features = self.step(x)
        summed = self.objective(logits, rows[self._here(ours)], rows[self._here(partners)], mixing)
        loss = summed * (self.team.size / n)  # gradients are averaged over the processes
        if hasattr(state.model, "penalty"):
            penalty = state.model.penalty(features.float())
            loss, summed = loss + penalty, summed + penalty * len(ours)
        state.optimizer.zero_grad()
        state.scaler.scale(loss).backward()
        if recipe.clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        return summed.detach()

    def _here(self, index: Tensor) -> Tensor:
        return send(index, self.device)


class Average:
    """ema <- decay ema + (1 - decay) model, parameters and buffers; counters are copied."""

    def __init__(self, ema: nn.Module, model: nn.Module) -> None:
        pairs = list(zip(ema.state_dict().values(), model.state_dict().values(), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Bring the average forward by a step."""
        torch._foreach_lerp_([a for a, _ in self.averaged], [b for _, b in self.averaged], 1 - decay)
        for a, b in self.copied:
            a.copy_(b)


def _decay(recipe: Recipe, epoch: int, step: int, n_batches: int) -> float:
    """The average's decay: it rises over the first steps; in the last `swa` epochs every step weighs the same."""
    first = max(0, recipe.epochs - recipe.swa)
    if recipe.swa and epoch >= first:
        k = (epoch - first) * n_batches + step
        return k / (k + 1)
    done = epoch * n_batches + step
    return min(recipe.ema, (1 + done) / (10 + done))


def key(*parts: int) -> int:
    """A 63-bit seed from (seed, epoch, step): the same whatever ran before it."""
    parts = (*parts, 1)  # SeedSequence takes (3,) and (3, 0) for the same
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def generator(*parts: int) -> Generator:
    return Generator().manual_seed(key(*parts))
