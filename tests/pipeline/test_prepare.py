"""The first step of a run: what is recorded, and which second run is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from deidcli.crypto import keys as crypto_keys
from deidcli.data.journal import Journal
from deidcli.data.source import Source, open_source
from deidcli.errors import DeidError
from deidcli.pipeline.prepare import prepare_run
from deidcli.settings import RunSettings
from tests.conftest import copy_people

pytestmark = pytest.mark.usefixtures("cheap")
SETTINGS = RunSettings("blackout", detector="none", gate=None)
WORDS, OTHERS = b"a passphrase of several words", b"quite another one"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(copy_people(tmp_path / "in", 2))


def test_the_same_command_goes_on_with_the_same_secret(tmp_path: Path, source: Source) -> None:
    first = prepare_run(SETTINGS, source, tmp_path / "out")
    record = Journal(tmp_path / "out").read_run()
    assert record is not None and first.secret == first.seed == bytes.fromhex(record["secret"])
    assert prepare_run(SETTINGS, source, tmp_path / "out") == first
    other = prepare_run(SETTINGS, source, tmp_path / "other")
    assert other.secret != first.secret and other.fingerprint != first.fingerprint
    assert record["fingerprint"] != first.fingerprint, "only the keyed one is published"


def test_kept_names_need_no_key_and_a_seed_is_the_seed(tmp_path: Path, source: Source) -> None:
    kept = dataclasses.replace(SETTINGS, names="keep", seed=5)
    run = prepare_run(kept, source, tmp_path / "out")
    assert run.secret is None and run.seed == 5
    zero = prepare_run(dataclasses.replace(kept, seed=0), source, tmp_path / "zero")
    assert zero.seed == 0 and not isinstance(zero.seed, bytes)  # 0 is a seed, too


def test_another_run_is_refused_and_told_by_what_differs(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    prepare_run(SETTINGS, source, out)
    with pytest.raises(DeidError, match=r"seed \(None -> 3\)"):
        prepare_run(dataclasses.replace(SETTINGS, seed=3), source, out)
    with pytest.raises(DeidError, match="made from another input"):
        prepare_run(SETTINGS, open_source(copy_people(tmp_path / "in2", 2)), out)
    copy_people(tmp_path / "in", 3)
    with pytest.raises(DeidError, match="the input has changed"):
        prepare_run(SETTINGS, open_source(tmp_path / "in"), out)
    before = Journal(out).read_run()
    anew = prepare_run(dataclasses.replace(SETTINGS, seed=3), source, out, overwrite=True)
    after = Journal(out).read_run()
    assert anew.seed == 3 and before and after and before["secret"] != after["secret"]


def test_another_password_is_refused_before_anything_is_written(
    tmp_path: Path, source: Source
) -> None:
    sealed, out = dataclasses.replace(SETTINGS, seal=True), tmp_path / "out"
    first = prepare_run(sealed, source, out, passphrase=WORDS).password
    again = prepare_run(sealed, source, out, passphrase=WORDS).password
    assert first is not None and again == first
    with pytest.raises(DeidError, match="another password"):
        prepare_run(sealed, source, out, passphrase=OTHERS)
    record = Journal(out).read_run()
    assert record is not None and WORDS.decode() not in str(record)
    assert first.keys.verifier.hex() == record["verifier"]
    assert crypto_keys.derive(WORDS, first.kdf) == first.keys


def test_a_repeatable_run_has_its_secret_from_seed_and_content(
    tmp_path: Path, source: Source
) -> None:
    def secret(name: str, source: Source, seed: int = 3, repeatable: bool = True) -> str:
        settings = dataclasses.replace(SETTINGS, names="keep", seed=seed, seal=True)
        out = tmp_path / name
        prepare_run(settings, source, out, passphrase=WORDS, repeatable=repeatable)
        record = Journal(out).read_run()
        assert record is not None
        return str(record["secret"])

    one = secret("one", source)
    assert one == secret("two", source)
    assert one != secret("other-seed", source, seed=4)
    assert one != secret("random", source, repeatable=False)
    assert one != secret("other-input", open_source(copy_people(tmp_path / "in2", 3)))
