"""Train `eae`: `deid train eae DATA --attrs GSBE --size compact|paper`.

The three procedures of Liu et al. (sec. IV-B) one after another, each with its own checkpoint and
weight file in OUT: the FSN on the attributes, the external autoencoder by its squared error, the
internal one by eq. 7 with all else frozen, and on request (`--set part=sprn`) the ablation by
eq. 8 and (`--set pen=arcface`) a PEN of its own by the ArcFace loss. A part whose weight file is
there with the same settings is not trained again. OUT gets a weights.toml with a card for each,
so that DEID_WEIGHTS=OUT makes `deid anonymize` use them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deidcli.faces import recognizers
from deidcli.methods.eae import losses
from deidcli.methods.eae.learner import adamw, learner_of, train_part
from deidcli.methods.eae.networks import (
    ExternalAutoencoder,
    FeatureSelection,
    InternalAutoencoder,
    code_of,
)
from deidcli.methods.eae.objectives import (
    external_objective,
    frozen_networks,
    fsn_objective,
    internal_objective,
    pen_objective,
    sprn_objective,
)
from deidcli.methods.eae.pen import Embedder, PersonClassifier
from deidcli.methods.eae.recipe import Recipe
from deidcli.methods.eae.run import EaeRun, accuracy, load_file_into, metadata, open_run
from deidcli.methods.eae.settings import names_of
from deidcli.training.chips import with_own_faces
from deidcli.training.loop import StoppedError

__all__ = ["Recipe", "train"]


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Recipe,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train the parts and write their weights and cards to `out`.

    The same call again resumes after a kill and ends with the same weights.

    Args:
        data, validation: folders or parquet files with labels; validation is only scored.
        cache: folder of the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The weights' paths; None when stopped early.

    Raises:
        DeidError: the data lacks labels, a part that another builds on was not trained, or OUT
            holds a part that was trained with other settings.
    """
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    run = open_run(data, out, settings, cache, validation, stop_after)
    if "internal" in settings.parts() and settings.pen != "arcface":
        recognizers.load(settings.pen)  # the last part needs it: say so before the first
    try:
        for part in settings.parts():
            if not run.is_made(part):
                PARTS[part](run)
    except StoppedError:
        return None
    return [run.path(part) for part in settings.parts()]


# --- The parts


def _train_fsn(run: EaeRun) -> None:
    """Procedure 1: the FSN on the attributes (eq. 4)."""
    recipe = run.settings
    torch.manual_seed(recipe.seed)
    model = FeatureSelection(run.size, len(run.fsn_attributes))
    if recipe.fsn_initial:
        load_file_into(model, Path(recipe.fsn_initial))
    steps = recipe.fsn_epochs * run.per_epoch
    learner = learner_of(run, model, lambda m: adamw(recipe, [(m, recipe.fsn_rate)]), steps)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        images = run.images(rows, generator)
        return learner.descend(step, fsn_objective(model, images, run.fsn_targets(rows)))

    @torch.no_grad()
    def scores_of(average: FeatureSelection) -> dict[str, float]:
        if run.held_out is None:
            return {}
        found = torch.cat([average.probabilities(b) for b in run.held_out_batches()])
        return accuracy(run.held_out, run.fsn_attributes, found.cpu().numpy() > 0.5)

    train_part(run, "fsn", learner, recipe.batch_size, step_of, scores_of)


def _train_external(run: EaeRun) -> None:
    """Procedure 3, line 5: the external autoencoder by its squared error (eq. 6).

    Its encoder is the FSN's first five blocks and, unless `encoder_share` is above 0, stays so.
    """
    recipe = run.settings
    torch.manual_seed(recipe.seed + 1)
    model = ExternalAutoencoder(run.size)
    fsn = run.trained("fsn", FeatureSelection(run.size, len(run.fsn_attributes)))
    model.encoder.load_state_dict(fsn.shared[:5].state_dict())
    fixed = recipe.encoder_share == 0
    model.encoder.requires_grad_(not fixed)
    rate = recipe.external_rate
    rates: list[tuple[nn.Module, float]]
    rates = [(model.encoder, rate * recipe.encoder_share), (model.decoder, rate)]
    steps = recipe.external_epochs * run.per_epoch
    learner = learner_of(run, model, lambda _: adamw(recipe, rates), steps)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        if fixed:
            model.encoder.eval()
        return learner.descend(step, external_objective(run, model, run.images(rows, generator)))

    @torch.no_grad()
    def scores_of(average: ExternalAutoencoder) -> dict[str, float]:
        shown = run.held_out_batches()
        if not shown:
            return {}
        errors = [float(losses.reconstruction_loss(b, average(b))) for b in shown]
        return {"PSNR, dB": round(float(-10 * np.log10(np.mean(errors))), 2)}

    train_part(run, "external", learner, recipe.batch_size, step_of, scores_of)


def _train_internal(run: EaeRun) -> None:
    """Procedure 3, line 7: the internal autoencoder by eq. 7, all else frozen."""
    recipe = run.settings
    torch.manual_seed(recipe.seed + 2)
    model = InternalAutoencoder(run.size, len(run.attributes))
    if recipe.internal_initial:
        load_file_into(model, Path(recipe.internal_initial))
    fine_tuned = bool(recipe.fine_tune_from)
    if fine_tuned:
        take_over_encoder(run, model, Path(recipe.fine_tune_from))
    frozen = frozen_networks(run)
    if not (recipe.internal_initial or fine_tuned):
        model.encoder[0].load_state_dict(frozen.fsn.shared[5].state_dict())
    steps = recipe.internal_steps or max(300, 6 * run.per_epoch)
    learner = learner_of(run, model, lambda m: adamw(recipe, [(m, recipe.internal_rate)]), steps)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        if fine_tuned:
            model.encoder.eval()
        images = run.images(rows, generator)
        with_pictures = fine_tuned or step % recipe.picture_every == 0
        loss = internal_objective(run, frozen, model, images, rows, with_pictures)
        return learner.descend(step, loss)

    @torch.no_grad()
    def scores_of(average: InternalAutoencoder) -> dict[str, float]:
        if run.held_out is None:
            return {}
        codes = [code_of(frozen.external, average, b) for b in run.held_out_batches()]
        return accuracy(run.held_out, run.attributes, torch.cat(codes).cpu().numpy() > 0)

    train_part(run, "internal", learner, recipe.batch_size, step_of, scores_of)


def take_over_encoder(run: EaeRun, model: InternalAutoencoder, path: Path) -> None:
    """Copy the encoder of other weights into `model`, with the units of the asked attributes, and
    freeze both.

    Args:
        path: weights of an internal autoencoder whose set holds the asked attributes.
    """
    names = names_of(metadata(path)["settings"]["attrs"])
    chosen = [names.index(name) for name in run.attributes]
    tensors = {name: value.float() for name, value in load_file(path).items()}
    own = model.state_dict()
    for name, value in tensors.items():
        if name.startswith("encoder."):
            own[name].copy_(value)
        elif name.startswith("code."):
            own[name].copy_(value[chosen])
    model.encoder.requires_grad_(False)
    model.code.requires_grad_(False)


def _train_sprn(run: EaeRun) -> None:
    """The ablation: the external autoencoder alone, by eq. 8."""
    recipe = run.settings
    frozen = frozen_networks(run)
    model = deepcopy(frozen.external)
    if recipe.sprn_initial:
        load_file_into(model, Path(recipe.sprn_initial))
    model.requires_grad_(True).train()
    steps, rate = recipe.sprn_steps, recipe.sprn_rate
    learner = learner_of(run, model, lambda m: adamw(recipe, [(m, rate)]), steps)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        images = run.images(rows, generator)
        return learner.descend(step, sprn_objective(run, frozen, model, images, rows))

    train_part(run, "sprn", learner, recipe.sprn_batch, step_of)


def _train_pen(run: EaeRun) -> None:
    """Procedure 2: a PEN by the ArcFace loss on the persons of DATA."""
    recipe = run.settings
    torch.manual_seed(recipe.seed + 3)
    persons, numbers = np.unique(run.chips.persons.astype(str), return_inverse=True)
    numbered = torch.from_numpy(numbers)
    model = PersonClassifier(Embedder(run.size), len(persons))

    def sgd(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), recipe.pen_rate, momentum=0.9, weight_decay=5e-4)

    learner = learner_of(run, model, sgd, recipe.pen_epochs * run.per_epoch)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        images = run.images(rows, generator)
        labels = numbered[rows].to(images.device)
        return learner.descend(step, pen_objective(model, images, labels))

    train_part(run, "pen", learner, recipe.batch_size, step_of)


PARTS: dict[str, Callable[[EaeRun], None]] = {
    "fsn": _train_fsn,
    "external": _train_external,
    "pen": _train_pen,
    "internal": _train_internal,
    "sprn": _train_sprn,
}
"""The parts by name -> the function that trains one and writes it."""
