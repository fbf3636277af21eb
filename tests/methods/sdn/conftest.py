"""Fixtures of sdn's tests: the method with the weights that are shipped, and faces for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.settings import SdnSettings
from tests.methods.sdn.faces import bits_of, context, cut, portraits


@pytest.fixture(scope="session")
def chips() -> Tensor:
    """(12, 3, 64, 64): people who do not exist, as `deid anonymize` cuts them."""
    return cut([frame for frame, _ in portraits()])


@pytest.fixture(scope="session")
def method() -> SecureDualNetwork:
    return SecureDualNetwork(SdnSettings(), "cpu")


@pytest.fixture(scope="session")
def published(method: SecureDualNetwork, chips: Tensor) -> Tensor:
    """As a crop in a PNG: eight bits, the mask's soft edge mixed with the original."""
    with torch.inference_mode():
        out = method(chips, context(bits_of(12)))
    mask = torch.from_numpy(method.mask)
    return ((mask * out + (1 - mask) * chips) * 255).round() / 255
