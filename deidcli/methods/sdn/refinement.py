"""The joint training of `sdn`: algorithm 1, with the losses of sdn_losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.sdn import losses
from deidcli.methods.sdn.bottleneck import LATENT, Bottleneck
from deidcli.methods.sdn.channel import passed, random_passage
from deidcli.methods.sdn.fitting import batch_of
from deidcli.methods.sdn.identity import KEPT, Identity
from deidcli.methods.sdn.keys import lock, random_keys
from deidcli.methods.sdn.method import DEPTH
from deidcli.methods.sdn.networks import (
    GRID,
    OUTSIDE,
    SIZES,
    Discriminator,
    FeatureExtractor,
    Painter,
    at_grid,
    at_side,
    edge_mask,
)
from deidcli.methods.sdn.recipe import Faces, Run, adamw, descend
from deidcli.training.loop import update_average

KNOWN = 48
"""Leading components, whitened, that stand for c_id in eq. 19 to 21."""
EDGES = 0.5
"""Weight of the gradient loss beside L1."""
AVERAGE = 0.995
"""Decay of the averaged painters, which are the ones that are kept."""

Said = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of a batch: attribute logits (N, 40), landmarks (N, 10), the mask's edge as (N, 3 * SECTORS) and
as (N, EDGE)."""


@dataclass
class Pass:
    """What one pass over a batch gave; see `Painting.run_through`."""

    same: Tensor
    surrogate: Tensor
    right: Tensor
    wrong: Tensor
    seen: Tensor
    wanted: Tensor
    """(N, 40) attributes asked for, -1 where none is."""
    sources: Tensor
    """(N,) persons whose latent the surrogate has, -1 for the pool's."""
    strangers: Tensor
    """(N,) those of the wrong restoration."""


class Painting(nn.Module):
    """All that learns together, and the step."""

    def __init__(
        self,
        faces: Faces,
        extractor: FeatureExtractor,
        bottleneck: Bottleneck,
        pool: Identity,
        people: Identity,
        persons: Tensor,
        run: Run,
    ) -> None:
        """Args:
        pool: the persons that are published. people: training faces with known `persons` (P,).
        """
        super().__init__()
        self.faces, self.run, settings = faces, run, run.settings
        size = SIZES[settings.size]
        self.extractor, self.bottleneck, self.pool, self.people = (
            extractor,
            bottleneck,
            pool,
            people,
        )
        self.persons = persons
        torch.manual_seed(settings.seed)
        self.erasing, self.reveal = Painter(size), Painter(size)
        self.erasing_mean, self.reveal_mean = Painter(size), Painter(size)
        self.erasing_mean.load_state_dict(self.erasing.state_dict())
        self.reveal_mean.load_state_dict(self.reveal.state_dict())
        self.judge, self.second = Discriminator(size, faces.people), Discriminator(size, 1)
        self.widths = nn.ParameterList([torch.zeros(KNOWN + len(KEPT) + 10)])
        self.mask = torch.from_numpy(edge_mask(size.side)).to(settings.device)
        self.inside = self.mask > OUTSIDE
        self.to(settings.device)
        self.to(memory_format=torch.channels_last)
        rate = settings.rate
        self.painters = adamw(rate, self.erasing, self.reveal)
        self.painters.add_param_group(
            {"params": list(self.widths), "lr": rate, "weight_decay": 0.0}
        )
        self.judges = adamw(rate * 0.5, self.judge, self.second, beta=0.5)
        self.classifier = adamw(rate * 0.05, self.extractor)

    @property
    def models(self) -> dict[str, nn.Module]:
        """What learns, and what a checkpoint holds."""
        names = ("erasing", "reveal", "erasing_mean", "reveal_mean", "judge", "second", "extractor")
        return {name: self.get_submodule(name) for name in (*names, "widths")}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"painters": self.painters, "judges": self.judges, "classifier": self.classifier}

    # --- One pass

    def run_through(self, chips: Tensor, generator: torch.Generator) -> Pass:
        """Both directions for (N, 3, S, S) faces I_y."""
        small = at_grid(chips)
        components = self.bottleneck.components(small)
        keys, others = (random_keys(len(chips), generator) for _ in range(2))
        said = self._said(chips)
        latents, sources = self._latents(said, keys.draws[:, 0])
        rough = self.bottleneck.render(latents, small)
        surrogate = self._blended(self.paint(self.erasing, rough, chips), chips)
        with torch.no_grad():
            points = lock(self.bottleneck.point(components), keys)
            plain = at_grid(surrogate)
            hidden = self.bottleneck.hide(plain, points, self.run.settings.strength)
            published = (surrogate + at_side(hidden - plain, chips.shape[-1])).clamp(0, 1)
            seen = self._seen(published, generator)
            seen_small = at_grid(seen)
            point, noise, _ = self.bottleneck.unlocked(self.bottleneck.read(seen_small), keys)
            restored = self.bottleneck.render(self.bottleneck.from_point(point, noise), seen_small)
            again, strangers = self._latents(self._said(seen), others.draws[:, 1])
            astray, _, _ = self.bottleneck.unlocked(self.bottleneck.read(seen_small), others)
            other = self.bottleneck.as_read(again, astray)
            other = self.bottleneck.render(other, seen_small)
            own = self._own(components, small, at_grid(surrogate), generator)
        return Pass(
            self._laid(self.paint(self.erasing, own, chips), chips),
            surrogate,
            self._laid(self.paint(self.reveal, restored, seen), seen),
            self._laid(self.paint(self.reveal, other, seen), seen),
            seen,
            _kept(said[0]),
            sources,
            strangers,
        )

    def paint(self, painter: nn.Module, rough: Tensor, chips: Tensor) -> Tensor:
        """A rough face (N, 3, 64, 64) in its surroundings -> (N, 3, S, S)."""
        laid = torch.where(self.inside, at_side(rough, chips.shape[-1]), chips).clamp(0, 1)
        out: Tensor = painter(laid, self.mask)
        return out

    def _laid(self, painted: Tensor, chips: Tensor) -> Tensor:
        return torch.where(self.inside, painted, chips)

    def _softly(self, painted: Tensor, chips: Tensor) -> Tensor:
        return self.mask * painted + (1 - self.mask) * chips

    def _blended(self, painted: Tensor, chips: Tensor) -> Tensor:
        return self._softly(DEPTH + (1 - 2 * DEPTH) * painted, chips)

    def _seen(self, published: Tensor, generator: torch.Generator) -> Tensor:
        passage = random_passage(generator)
        if published.shape[-1] == GRID:
            return passed(published.cpu(), passage, generator).to(published)
        # The way is modeled at 64 px; what is finer stays as it was.
        small = at_grid(published)
        change = passed(small.cpu(), passage, generator).to(published) - small
        return published + at_side(change, published.shape[-1])

    @torch.no_grad()
    def _said(self, chips: Tensor) -> Said:
        logits, landmarks, _ = self.extractor(chips)
        small = at_grid(chips)
        return logits, landmarks, self.bottleneck.rim(small, False), self.bottleneck.edge(small)

    @torch.no_grad()
    def _latents(self, said: Said, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of the pool for the first half, of known people for the second."""
        half = len(draws) // 2
        latents, rows = [], []
        for net, some in ((self.pool, slice(half)), (self.people, slice(half, None))):
            logits, landmarks, rims, edges = (part[some] for part in said)
            drawn = net.draw(logits, landmarks, rims, draws[some], {})
            latents.append(net.latents(*drawn, edges, self.bottleneck.edge_fit, {}, {}))
            rows.append(drawn[0])
        known = self.persons.to(rows[1].device)[rows[1]]
        return torch.cat(latents), torch.cat([torch.full_like(rows[0], -1), known])

    def _own(
        self, components: Tensor, small: Tensor, surrogate: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Eq. 6's inputs: a face's own latent, for half of them laid over the surrogate; its tone
        a little off, for a stranger's tone never fits wholly."""
        half = len(small) // 2
        around = torch.cat([small[:half], surrogate[half:]])
        rough = self.bottleneck.render(components[:, :LATENT], around)
        noise = torch.randn(2, len(small), 3, 1, 1, generator=generator).to(small)
        return (rough - 0.5) * (1 + 0.08 * noise[0]) + 0.5 + 0.03 * noise[1]

    # --- The step (algorithm 1)

    def step(self, step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        """One iteration; what to log."""
        settings = self.run.settings
        self.extractor.eval()
        chips = batch_of(self.faces.chips[rows]).to(settings.device)
        turned = torch.rand(len(rows), generator=generator).to(chips.device) < 0.5
        chips = torch.where(turned[:, None, None, None], chips.flip(3), chips)
        labels = self.faces.labels[rows].to(chips)
        judging = step >= settings.adversarial_from * settings.steps
        given = self.run_through(chips, generator)
        told = self._teach_painters(chips, given, judging)
        if judging:
            told |= self._teach_judges(chips, labels, given)
        if (step + 1) % settings.classifier_every == 0:
            told |= self._teach_classifier(chips, self.faces.persons[rows], given)
        decay = min(AVERAGE, (1 + step) / (10 + step))
        update_average(self.erasing_mean, self.erasing, decay)
        update_average(self.reveal_mean, self.reveal, decay)
        return {key: float(value) for key, value in told.items()}

    def _teach_painters(self, chips: Tensor, given: Pass, judging: bool) -> dict[str, Tensor]:
        """Eq. 8, 14, 15, and of eq. 16 and 19 what concerns the painters."""
        settings, half = self.run.settings, len(chips) // 2
        logits, landmarks, _ = self.extractor(given.surrogate)
        attributes = losses.attribute_loss(logits, given.wanted)
        same = losses.reconstruction_loss(chips[:half], given.same[:half], given.same[:half])
        back = losses.reconstruction_loss(chips[half:], given.same[half:], given.same[half:])
        edges = losses.gradient_loss(chips, given.same)
        encoder = losses.encoder_loss(
            (same + back) / 2 + EDGES * edges, settings.attributes * attributes
        )
        again = losses.reidentification_loss(chips, given.right)
        sharp = losses.gradient_loss(chips, given.right)
        _, _, persons = self.extractor(given.wrong)
        wrong = losses.wrong_password_loss(persons, given.strangers)
        decoder = losses.decoder_loss(again + EDGES * sharp, settings.wrong * wrong)
        loss = losses.total_loss(encoder, decoder)
        told = {"same": same / 2, "again": again, "attributes": attributes, "wrong": wrong}
        if settings.information:
            information = self._information(chips, logits, landmarks, given)
            told["information"] = information
            loss = loss - settings.information * information
        if judging:
            surrogate = losses.patch_loss(self.judge(given.surrogate)[0], True)
            alike = losses.patch_loss(self.second(given.wrong)[0], True)
            told |= {"surrogate": surrogate, "alike": alike}
            loss = loss + settings.adversarial * surrogate + settings.alike * alike
        descend(loss, self.painters)
        return {key: value.detach() for key, value in told.items()}

    def _information(self, chips: Tensor, logits: Tensor, landmarks: Tensor, given: Pass) -> Tensor:
        """Lower bounds (eq. 21) of what the surrogate tells of pose and kept attributes (eq. 16)
        and the right restoration of the face (eq. 19), less the upper bound (eq. 20) of what the
        wrong one tells."""
        columns = [CELEBA_ATTRIBUTES.index(name) for name in KEPT]
        with torch.no_grad():
            true_logits, true_landmarks, _ = self.extractor(chips)
            kept = torch.cat([true_logits[:, columns] / 4, true_landmarks], 1)
            code = self._code(chips)
        guess = torch.cat([logits[:, columns] / 4, landmarks], 1)
        first = losses.information_lower_bound(kept, guess, self.widths[0][KNOWN:])
        right = self._code(given.right)
        second = losses.information_lower_bound(code, right, self.widths[0][:KNOWN])
        third = losses.information_upper_bound(self._code(given.wrong))
        return first + second - third

    def _code(self, chips: Tensor) -> Tensor:
        """(N, KNOWN): c_id, the leading components, whitened."""
        some = self.bottleneck.components(at_grid(chips))[:, :KNOWN]
        return some * self.bottleneck.gains[:KNOWN] ** 2

    def _teach_judges(self, chips: Tensor, labels: Tensor, given: Pass) -> dict[str, Tensor]:
        """Eq. 9 to 11 and the patches; the second discriminator knows right from wrong."""
        real, real_attributes, real_persons = self.judge(chips)
        fake, fake_attributes, _ = self.judge(given.surrogate.detach())
        with torch.no_grad():
            _, _, classified = self.extractor(chips)
        patches = losses.patch_loss(real, True) + losses.patch_loss(fake, False)
        heads = losses.discriminator_loss(
            losses.discriminator_identity_loss(real_persons, classified),
            losses.discriminator_attribute_loss(
                real_attributes, labels, fake_attributes, given.wanted
            ),
        )
        right, wrong = (self.second(x.detach())[0] for x in (given.right, given.wrong))
        telling = losses.patch_loss(right, True) + losses.patch_loss(wrong, False)
        descend(patches + 0.1 * heads + telling, self.judges)
        return {"patches": patches.detach(), "telling": telling.detach()}

    def _teach_classifier(self, chips: Tensor, persons: Tensor, given: Pass) -> dict[str, Tensor]:
        """Eq. 5, with the statistics of its normalization as they are."""
        _, _, source = self.extractor(chips)
        _, _, surrogate = self.extractor(given.surrogate.detach())
        known = persons.to(source.device)
        # I_x is whoever the surrogate's latent is of; on real faces the classifier goes on with
        # the people of the batch, for the sources' own pictures are not at hand.
        loss = losses.extractor_loss(source, surrogate, known, given.sources)
        descend(loss, self.classifier)
        return {"classifier": loss.detach()}


def _kept(logits: Tensor) -> Tensor:
    """(N, 40): what is asked of a surrogate where nothing is: the kept attributes as they are."""
    wanted = torch.full_like(logits, -1.0)
    for name in KEPT:
        column = CELEBA_ATTRIBUTES.index(name)
        wanted[:, column] = (logits[:, column] > 0).float()
    return wanted
