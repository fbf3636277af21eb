"""One step of generator and discriminator by eq. 13: what `train.train_gan` repeats."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from deidcli.faces import recognizers
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.canvas import LATENT
from deidcli.methods.a3gan.latents import truncated
from deidcli.methods.a3gan.networks import SIZES, Discriminator, Generator
from deidcli.methods.a3gan.recipe import GENERATOR_FLOOR, Recipe, learning_rate_factor
from deidcli.methods.a3gan.teacher import Batch, canvas_faces
from deidcli.methods.blend import wide_edge_mask
from deidcli.training.loop import average_decay, optimizer_step, update_average

BETAS = (0.0, 0.9)
"""Adam's, for generator and discriminator: Gulrajani et al. 2017 (WGAN-GP), algorithm 1."""


class Gan:
    """Generator and discriminator with their optimizers, and one step of both by eq. 13."""

    def __init__(self, generator: Generator, head: Discriminator, recipe: Recipe) -> None:
        """Start from a generator and from a copy of the trained attribute head."""
        self.recipe = recipe
        self.generator = generator
        self.discriminator = deepcopy(head).requires_grad_(True)
        self.average = deepcopy(generator).eval().requires_grad_(False)
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), recipe.gan_rate, BETAS)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), recipe.gan_rate, BETAS
        )
        self.recognizer: recognizers.Embedder | None = None
        if recipe.recognizer_faces:
            self.recognizer = recognizers.load(recipe.recognizer, recipe.device)
        self.window = wide_edge_mask(SIZES[recipe.size].side).to(recipe.device)
        self.lambdas = {
            "att2": recipe.lambda2,
            "deid": recipe.lambda3,
            "adv": recipe.lambda4,
            "teacher": recipe.lambda_teacher,
            "diversity": recipe.lambda_diversity,
        }

    def step(self, step: int, batch: Batch, random: torch.Generator) -> dict[str, float]:
        """Move discriminator, generator and average once; return the losses' values.

        Half of the latents are replaced by some from N(0, I).
        """
        self.generator.train()
        latent, half = batch.latent.clone(), len(batch.latent) // 2
        noise = torch.randn(len(latent) - half, LATENT, generator=random)
        latent[half:] = truncated(noise).to(latent)
        made = self.generator(
            batch.chips, latent, batch.mask, canvas_faces(self.generator, batch, latent)
        )
        fake = torch.lerp(batch.chips, made.clamp(max=1), self.window)
        values = self.discriminator_step(step, batch, fake.detach(), random)
        self.discriminator.requires_grad_(False)
        terms = self.generator_terms(batch, made, fake)
        self.discriminator.requires_grad_(True)
        factor = learning_rate_factor(step, self.recipe.steps, GENERATOR_FLOOR)
        loss = losses.generator_loss(terms, self.lambdas)
        optimizer_step(self.generator_optimizer, loss, factor)
        update_average(self.average, self.generator, average_decay(step, self.recipe.average))
        return values | {key: float(value.detach()) for key, value in terms.items()}

    def generator_terms(self, batch: Batch, made: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Return the generator's terms of eq. 13, and ours.

        Args:
            made: (B, 3, S, S), what the generator gave. fake: the same, laid into the pictures.
        """
        scores, attributes = self.discriminator(fake)
        avoided = losses.xnor(batch.attributes, batch.mask)
        half = len(made) // 2  # whose latents are still the batch's own
        terms = {
            "att2": losses.anonymization_loss(attributes, avoided),
            "adv": losses.adversarial_loss(scores),
            "teacher": losses.teacher_loss(made[:half], batch.target[:half], self.window),
        }
        if self.recognizer is not None:
            count = self.recipe.recognizer_faces
            some = torch.arange(count) * len(made) // count
            originals, views = (
                losses.recognizer_view(chips[some], self.recognizer.recognizer)
                for chips in (batch.chips, fake)
            )
            published = self.recognizer(views)
            with torch.no_grad():
                original = self.recognizer(originals)
            terms["deid"] = losses.identity_loss(original, published)
            terms["diversity"] = losses.diversity_loss(published)
        return terms

    def discriminator_step(
        self, step: int, batch: Batch, fake: Tensor, random: torch.Generator
    ) -> dict[str, float]:
        """Move the discriminator once by eq. 14 and 9; return the losses' values.

        The gradient penalty is taken every few steps, with as many times its weight.
        """
        every = self.recipe.penalty_every
        self.discriminator.train()
        real_scores, attributes = self.discriminator(batch.chips)
        fake_scores, _ = self.discriminator(fake)
        attribute_loss = losses.attribute_loss(attributes, batch.attributes)
        penalty = real_scores.new_zeros(())
        if step % every == 0:
            share = torch.rand(len(fake), generator=random).to(fake.device)
            penalty = losses.gradient_penalty(
                lambda x: self.discriminator(x)[0], batch.chips, fake, share
            )
        # lambda4 scales the generator's side alone: the critic's own scale is set by the penalty.
        critic = losses.critic_loss(real_scores, fake_scores, penalty, losses.PENALTY * every)
        optimizer_step(self.discriminator_optimizer, critic + self.recipe.lambda1 * attribute_loss)
        return {
            "gap": float((real_scores.mean() - fake_scores.mean()).detach()),
            "penalty": float(penalty.detach()),
            "att1": float(attribute_loss.detach()),
        }
