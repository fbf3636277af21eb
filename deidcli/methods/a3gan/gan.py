"""One step of generator and discriminator by eq. 13: what `train.train_gan` repeats."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.geometry import veiled, window
from deidcli.methods.a3gan.networks import Discriminator, Generator
from deidcli.methods.a3gan.pair_batches import Batch
from deidcli.methods.a3gan.recipe import GENERATOR_FLOOR, Recipe, learning_rate_factor
from deidcli.methods.a3gan.supervised import Lessons
from deidcli.training.loop import average_decay, optimizer_step, update_average

BETAS = (0.0, 0.9)
"""Adam's, for generator and discriminator: Gulrajani et al. 2017 (WGAN-GP), algorithm 1."""


@dataclass(frozen=True)
class Photographs:
    """B photographs, with what is wanted of them."""

    chips: Tensor
    """(B, 3, S, S) in [0, 1]."""
    labels: Tensor
    """(B, 10): 1 present, 0 absent, -1 not labeled."""
    latent: Tensor
    """(B, L) from N(0, I)."""
    mask: Tensor
    """(B, 10)."""


class Gan:
    """Generator and discriminator with their optimizers, and one step of both by eq. 13."""

    def __init__(
        self,
        generator: Generator,
        average: Generator,
        lessons: Lessons,
        head: Discriminator,
        recipe: Recipe,
    ) -> None:
        """Go on from a generator, its average, what pairs teach and a trained attribute head."""
        self.recipe = recipe
        self.generator, self.average, self.lessons = generator, average, lessons
        self.discriminator = deepcopy(head).requires_grad_(True)
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), recipe.gan_rate, BETAS)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), recipe.gan_rate, BETAS
        )
        self.window = torch.from_numpy(window()).to(recipe.device)
        self.lambdas = {
            "att2": recipe.lambda2,
            "deid": recipe.lambda3,
            "adv": recipe.lambda4,
            **lessons.lambdas,
        }

    def step(
        self, step: int, real: Photographs, pairs: Batch, random: torch.Generator
    ) -> dict[str, float]:
        """Move discriminator, patch critic, generator and average once; return the losses'
        values. Eq. 13 is of photographs and drawn pictures alike; of the latter, pairs are known.
        """
        self.generator.train()
        chips = torch.cat([real.chips, pairs.source])
        mask = torch.cat([real.mask, pairs.mask])
        given = veiled(chips, self.window) if self.recipe.stays_veiled else chips
        with self.recipe.autocast():
            made = self.generator(given, torch.cat([real.latent, pairs.latent]), mask).float()
        fake = torch.lerp(chips, made.clamp(0, 1), self.window)
        labels = torch.cat([real.labels, pairs.present])
        values = self.discriminator_step(step, chips, labels, fake.detach(), random)
        taught = made[len(real.chips) :]
        values["critic"] = self.lessons.critic_step(taught, pairs.target)
        self.discriminator.requires_grad_(False)
        terms = self.eq13(chips, labels, mask, made, fake) | self.lessons.terms(taught, pairs)
        self.discriminator.requires_grad_(True)
        factor = learning_rate_factor(step, self.recipe.steps, GENERATOR_FLOOR)
        loss = losses.generator_loss(terms, self.lambdas)
        optimizer_step(self.generator_optimizer, loss, factor)
        update_average(self.average, self.generator, average_decay(step + 500, self.recipe.average))
        return values | {key: float(value.detach()) for key, value in terms.items()}

    def eq13(
        self, chips: Tensor, labels: Tensor, mask: Tensor, made: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        """Return the generator's terms of eq. 13.

        Args:
            chips: (B, 3, S, S) the originals. labels, mask: (B, 10).
            made: what the generator gave. fake: the same, laid into the pictures.
        """
        scores, attributes = self.discriminator(fake)
        avoided = losses.xnor(labels.clamp(min=0), mask)
        with torch.no_grad():
            original = self.lessons.seen(chips).person
        published = self.lessons.seen(fake).person
        return {
            "att2": losses.anonymization_loss(attributes, avoided),
            "adv": losses.adversarial_loss(scores),
            "deid": losses.identity_loss(original, published),
        }

    def discriminator_step(
        self, step: int, chips: Tensor, labels: Tensor, fake: Tensor, random: torch.Generator
    ) -> dict[str, float]:
        """Move the discriminator once by eq. 14 and 9; return the losses' values.

        The gradient penalty is taken every few steps, with as many times its weight.
        """
        every = self.recipe.penalty_every
        self.discriminator.train()
        real_scores, attributes = self.discriminator(chips)
        fake_scores, _ = self.discriminator(fake)
        attribute_loss = losses.attribute_loss(attributes, labels)
        penalty = real_scores.new_zeros(())
        if step % every == 0:
            share = torch.rand(len(fake), generator=random).to(fake.device)
            penalty = losses.gradient_penalty(
                lambda x: self.discriminator(x)[0], chips, fake, share
            )
        # lambda4 scales the generator's side alone: the critic's own scale is set by the penalty.
        critic = losses.critic_loss(real_scores, fake_scores, penalty, losses.PENALTY * every)
        optimizer_step(self.discriminator_optimizer, critic + self.recipe.lambda1 * attribute_loss)
        return {
            "gap": float((real_scores.mean() - fake_scores.mean()).detach()),
            "penalty": float(penalty.detach()),
            "att1": float(attribute_loss.detach()),
        }

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint has to hold."""
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            **self.lessons.parts(),
        }
