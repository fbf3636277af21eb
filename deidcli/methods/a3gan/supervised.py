"""One step on pairs: the generator learns to put another person into the picture, supervised."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import recognizers
from deidcli.faces.dlib_nets import DlibRecognizer
from deidcli.faces.reader import pooled
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.networks import SIZES, Generator, PatchCritic
from deidcli.methods.a3gan.pair_batches import Batch
from deidcli.methods.a3gan.recipe import GENERATOR_FLOOR, Recipe, learning_rate_factor
from deidcli.methods.a3gan.settings import ATTRIBUTES
from deidcli.methods.loading import load_reader
from deidcli.training.loop import average_decay, optimizer_step, update_average

BETAS = (0.5, 0.99)
LOWER = 9
"""Blocks of dlib's recognizer whose maps are compared: those of 35, 17 and 8 cells' side."""


COLUMNS = [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]
"""Of the reader's answers: the ten attributes."""


@dataclass(frozen=True)
class Seen:
    """What frozen networks see in B chips."""

    maps: list[Tensor]
    """The lower maps of dlib's recognizer, (B, C, s, s) each."""
    person: Tensor
    """(B, 128): its embeddings."""
    attributes: Tensor
    """(B, 10): log-odds of the ten attributes."""


class Lessons:
    """What pairs teach a generator: the terms of a step on them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.embedder = recognizers.load("dlib", recipe.device)
        assert isinstance(self.embedder.net, DlibRecognizer)
        self.net = self.embedder.net
        self.reader = load_reader(recipe.device).eval().requires_grad_(False)
        # Loading a network draws random numbers, unless it was loaded before.
        torch.manual_seed(recipe.seed + 1)
        self.critic = PatchCritic(SIZES[recipe.size].critic[:3]).to(recipe.device)
        self.critic.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), recipe.patch_rate, (0.0, 0.99))
        self.lambdas = {
            "picture": recipe.lambda_picture,
            "perceptual": recipe.lambda_perceptual,
            "person": recipe.lambda_person,
            "attributes": recipe.lambda_attributes,
            "patch": recipe.lambda_patch,
        }

    def seen(self, chips: Tensor) -> Seen:
        """What dlib's recognizer and the reader see."""
        with self.recipe.autocast():
            maps = self.net.maps(losses.recognizer_view(chips, self.embedder.recognizer))
        maps = [found.float() for found in maps]
        embeddings = maps[-1].mean((2, 3)) @ self.net.projection
        return Seen(maps[:LOWER], embeddings, self.reader(pooled(maps))[:, COLUMNS])

    def critic_step(self, made: Tensor, target: Tensor) -> float:
        """Move the patch critic once; return its loss."""
        self.critic.train()
        with self.recipe.autocast():
            both = self.critic(torch.cat([target, made.detach().clamp(0, 1)])).float()
        return optimizer_step(self.optimizer, losses.patch_critic_loss(*both.chunk(2)))

    def terms(self, made: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms for what a generator made of a batch."""
        seen = self.seen(made)
        with torch.no_grad():
            wanted = self.seen(batch.target)
        with self.recipe.autocast():
            answers = self.critic.requires_grad_(False)(made).float()
        self.critic.requires_grad_(True)
        return {
            "picture": losses.picture_loss(made, batch.target, batch.head),
            "perceptual": losses.perceptual_loss(seen.maps, wanted.maps),
            "person": losses.person_loss(seen.person, wanted.person),
            "attributes": losses.answers_loss(seen.attributes, wanted.attributes),
            "patch": losses.adversarial_loss(answers),
        }

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint has to hold."""
        return {"patch_critic": self.critic, "patch_optimizer": self.optimizer}


class Supervised:
    """The generator, its average, and one step on pairs."""

    def __init__(self, generator: Generator, recipe: Recipe) -> None:
        self.recipe = recipe
        self.generator = generator
        self.average = deepcopy(generator).eval().requires_grad_(False)
        self.lessons = Lessons(recipe)
        self.optimizer = torch.optim.Adam(generator.parameters(), recipe.rate, BETAS)

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """Move patch critic, generator and average once; return the losses' values."""
        recipe = self.recipe
        self.generator.train()
        with recipe.autocast():
            made = self.generator(batch.source, batch.latent, batch.mask).float()
        critic = self.lessons.critic_step(made, batch.target)
        terms = self.lessons.terms(made, batch)
        loss = losses.generator_loss(terms, self.lessons.lambdas)
        factor = learning_rate_factor(step, recipe.supervised_steps, GENERATOR_FLOOR)
        optimizer_step(self.optimizer, loss, factor)
        update_average(self.average, self.generator, average_decay(step, recipe.average))
        return {"critic": critic} | {key: float(value.detach()) for key, value in terms.items()}

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint has to hold."""
        return {
            "generator": self.generator,
            "average": self.average,
            "optimizer": self.optimizer,
            **self.lessons.parts(),
        }
