"""The joint training of `sdn`: algorithm 1, with the losses of losses.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.sdn import losses
from deidcli.methods.sdn.bottleneck import Bottleneck
from deidcli.methods.sdn.fitting import batch_of
from deidcli.methods.sdn.identity import KEPT, Identity
from deidcli.methods.sdn.networks import (
    SIZES,
    Discriminator,
    FeatureExtractor,
    RefinementNetwork,
    at_grid,
)
from deidcli.methods.sdn.optimizers import adamw, rate_factor
from deidcli.methods.sdn.passes import BothDirections, Pass
from deidcli.methods.sdn.recipe import Recipe
from deidcli.methods.sdn.training_faces import Faces, flipped_half
from deidcli.training.loop import average_decay, optimizer_step, update_average

KNOWN = 48
"""Leading components, whitened, that stand for c_id in eq. 19 to 21."""
EDGES = 0.5
"""Weight of the gradient loss beside L1."""
HEADS = 0.1
"""Weight of the discriminators' classifying heads (eq. 11) beside their patches."""
LOGITS = 4.0
"""Attribute logits are divided by this beside landmarks in deviations (eq. 16)."""
AVERAGE = 0.995
"""Decay of the averaged refinement networks, which are the ones that are kept."""
DISCRIMINATOR_RATE, DISCRIMINATOR_BETA = 0.5, 0.5
"""Learning rate of the discriminators, as a share of the recipe's, and AdamW's first beta."""
CLASSIFIER_RATE = 0.05
"""Learning rate of the extractor in joint training, as a share of the recipe's."""


class RefinementTraining(nn.Module):
    """All that learns together, and the step."""

    def __init__(
        self,
        faces: Faces,
        extractor: FeatureExtractor,
        bottleneck: Bottleneck,
        pool: Identity,
        people: Identity,
        persons: Tensor,
        recipe: Recipe,
    ) -> None:
        """
        Args:
            pool: the persons that are published. people: training faces of known `persons` (P,).
        """
        super().__init__()
        self.faces, self.recipe, size = faces, recipe, SIZES[recipe.size]
        torch.manual_seed(recipe.seed)
        self.networks = BothDirections(
            size, extractor, bottleneck, pool, people, persons, recipe.strength
        )
        # Built, not copied: what they draw decides the discriminators' initial weights, and
        # trainings are to stay repeatable.
        self.erasing_average, self.reveal_average = RefinementNetwork(size), RefinementNetwork(size)
        self.erasing_average.load_state_dict(self.networks.erasing.state_dict())
        self.reveal_average.load_state_dict(self.networks.reveal.state_dict())
        self.discriminator = Discriminator(size, faces.people)
        self.restoration_discriminator = Discriminator(size, 1)
        self.widths = nn.ParameterList([torch.zeros(KNOWN + len(KEPT) + 10)])
        self.to(recipe.device)
        self.to(memory_format=torch.channels_last)
        rate = recipe.rate
        self.refinement_optimizer = adamw(rate, self.networks.erasing, self.networks.reveal)
        self.refinement_optimizer.add_param_group(
            {"params": list(self.widths), "lr": rate, "weight_decay": 0.0}
        )
        self.discriminator_optimizer = adamw(
            rate * DISCRIMINATOR_RATE,
            self.discriminator,
            self.restoration_discriminator,
            beta=DISCRIMINATOR_BETA,
        )
        self.classifier_optimizer = adamw(rate * CLASSIFIER_RATE, extractor)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return all that a checkpoint holds."""
        return {
            "erasing": self.networks.erasing,
            "reveal": self.networks.reveal,
            "erasing average": self.erasing_average,
            "reveal average": self.reveal_average,
            "discriminator": self.discriminator,
            "restoration discriminator": self.restoration_discriminator,
            "extractor": self.networks.extractor,
            "widths": self.widths,
            "refinement optimizer": self.refinement_optimizer,
            "discriminator optimizer": self.discriminator_optimizer,
            "classifier optimizer": self.classifier_optimizer,
        }

    def step(self, step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Take one step of algorithm 1 on some faces; return the losses for the log."""
        recipe, device = self.recipe, self.recipe.device
        self.networks.extractor.eval()
        chips, _ = flipped_half(batch_of(self.faces.chips[rows]).to(device), generator)
        labels = self.faces.labels[rows].to(chips)
        adversarial = step >= recipe.adversarial_from * recipe.steps
        factor = rate_factor(step, recipe.steps)
        given: Pass = self.networks(chips, generator)
        told = self._refinement_step(chips, given, adversarial, factor)
        if adversarial:
            told |= self._discriminator_step(chips, labels, given, factor)
        if (step + 1) % recipe.classifier_every == 0:
            told |= self._classifier_step(chips, self.faces.persons[rows], given, factor)
        decay = average_decay(step, AVERAGE)
        update_average(self.erasing_average, self.networks.erasing, decay)
        update_average(self.reveal_average, self.networks.reveal, decay)
        return {key: float(value) for key, value in told.items()}

    def _refinement_step(
        self, chips: Tensor, given: Pass, adversarial: bool, factor: float
    ) -> dict[str, Tensor]:
        """Move both refinement networks: eq. 8, 14, 15, and their terms of eq. 16 and 19."""
        recipe, half = self.recipe, len(chips) // 2
        logits, landmarks, _ = self.networks.extractor(given.surrogate)
        attributes = losses.attribute_loss(logits, given.wanted)
        same = losses.reconstruction_loss(chips[:half], given.same[:half], given.same[:half])
        back = losses.reconstruction_loss(chips[half:], given.same[half:], given.same[half:])
        edges = losses.gradient_loss(chips, given.same)
        encoder = losses.encoder_loss(
            (same + back) / 2 + EDGES * edges, recipe.attributes * attributes
        )
        again = losses.reidentification_loss(chips, given.right)
        sharp = losses.gradient_loss(chips, given.right)
        _, _, persons = self.networks.extractor(given.wrong)
        wrong = losses.wrong_password_loss(persons, given.strangers)
        decoder = losses.decoder_loss(again + EDGES * sharp, recipe.wrong * wrong)
        loss = losses.total_loss(encoder, decoder)
        told = {"same": same / 2, "again": again, "attributes": attributes, "wrong": wrong}
        if recipe.information:
            information = self._information(chips, logits, landmarks, given)
            told["information"] = information
            loss = loss - recipe.information * information
        if adversarial:
            surrogate = losses.adversarial_loss(self.discriminator(given.surrogate)[0])
            alike = losses.adversarial_loss(self.restoration_discriminator(given.wrong)[0])
            told |= {"surrogate": surrogate, "alike": alike}
            loss = loss + recipe.adversarial * surrogate + recipe.alike * alike
        # The widths of eq. 21 are clipped apart from the networks.
        optimizer_step(self.refinement_optimizer, loss, factor, each_group=True)
        return {key: value.detach() for key, value in told.items()}

    def _information(self, chips: Tensor, logits: Tensor, landmarks: Tensor, given: Pass) -> Tensor:
        """Return how much the pictures tell, nats a dimension: the lower bounds (eq. 21) of what
        the surrogate tells of pose and kept attributes (eq. 16) and the right restoration of the
        face (eq. 19), less the upper bound (eq. 20) of what the wrong one tells.

        The paper has eq. 20 for the right password and eq. 21 for wrong ones; but what is to rise
        can only be raised by its lower bound.
        """
        columns = [CELEBA_ATTRIBUTES.index(name) for name in KEPT]
        with torch.no_grad():
            true_logits, true_landmarks, _ = self.networks.extractor(chips)
            kept = torch.cat([true_logits[:, columns] / LOGITS, true_landmarks], 1)
            code = self._code(chips)
        guess = torch.cat([logits[:, columns] / LOGITS, landmarks], 1)
        first = losses.information_lower_bound(kept, guess, self.widths[0][KNOWN:])
        right = self._code(given.right)
        second = losses.information_lower_bound(code, right, self.widths[0][:KNOWN])
        third = losses.information_upper_bound(self._code(given.wrong))
        return first + second - third

    def _code(self, chips: Tensor) -> Tensor:
        """Return c_id (N, KNOWN): the leading components, whitened."""
        bottleneck = self.networks.bottleneck
        some = bottleneck.components(at_grid(chips))[:, :KNOWN]
        return some * bottleneck.gains[:KNOWN] ** 2

    def _discriminator_step(
        self, chips: Tensor, labels: Tensor, given: Pass, factor: float
    ) -> dict[str, Tensor]:
        """Move both discriminators: one by its patches and eq. 9 to 11, on surrogates; the other
        learns to tell right restorations from wrong ones."""
        real, real_attributes, real_persons = self.discriminator(chips)
        fake, fake_attributes, _ = self.discriminator(given.surrogate.detach())
        with torch.no_grad():
            _, _, classified = self.networks.extractor(chips)
        patches = losses.real_or_fake_loss(real, fake)
        heads = losses.discriminator_loss(
            losses.discriminator_identity_loss(real_persons, classified),
            losses.discriminator_attribute_loss(
                real_attributes, labels, fake_attributes, given.wanted
            ),
        )
        right = self.restoration_discriminator(given.right.detach())[0]
        wrong = self.restoration_discriminator(given.wrong.detach())[0]
        restorations = losses.real_or_fake_loss(right, wrong)
        loss = patches + HEADS * heads + restorations
        optimizer_step(self.discriminator_optimizer, loss, factor)
        return {"patches": patches.detach(), "restorations": restorations.detach()}

    def _classifier_step(
        self, chips: Tensor, persons: Tensor, given: Pass, factor: float
    ) -> dict[str, Tensor]:
        """Move the extractor by eq. 5, with the statistics of its normalization as they are."""
        _, _, source = self.networks.extractor(chips)
        _, _, surrogate = self.networks.extractor(given.surrogate.detach())
        known = persons.to(source.device)
        # I_x is whoever the surrogate's latent is of; on real faces the classifier goes on with
        # the people of the batch, for the sources' own pictures are not at hand.
        loss = losses.extractor_loss(source, surrogate, known, given.sources)
        optimizer_step(self.classifier_optimizer, loss, factor)
        return {"classifier": loss.detach()}
