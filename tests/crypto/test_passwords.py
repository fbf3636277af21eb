"""Passwords: read, turned into keys and bits, and found nowhere afterwards."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from deidcli.crypto import keys as crypto_keys
from deidcli.crypto import passwords
from deidcli.crypto.keys import Kdf, derive, face_bits, face_nonce
from deidcli.crypto.passwords import read_passphrase
from deidcli.data.journal import Journal, private_folder
from deidcli.data.source import Source
from deidcli.errors import DeidError, UsageError
from deidcli.pipeline.run import Run, RunKeys
from deidcli.settings import RunSettings
from tests.conftest import Outcome, manifest_without_times, tree
from tests.reversible import password_file, png_people

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]
PECULIAR = "Kvltürtürm-7391-xyzzy"
COST = crypto_keys.SCRYPT_N
"""What a run costs without the fixture that makes it cheap."""
KDF = Kdf(bytes(range(16)), crypto_keys.COSTS[0])
WEAK = (
    *("a", "eleven char", "aaaaaaaaaaaa", "abcabcabcabc", "abcdefghijklmn", "nmlkjihgfedcba"),
    *("123456789012", "0987654321098", "aabbaabbccaa", "Password1234", "p@ssw0rd2024!"),
    "12 Qwertyuiop 34",
    *("correct horse battery staple", "passwordpassword", "letmein-letmein", "admin test 2023"),
)  # fmt: skip


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = password_file(tmp_path, "secret words")
    assert read_passphrase(path, None, twice=True) == b"secret words"
    for mode in (0o640, 0o604, 0o620, 0o644, 0o777):
        path.chmod(mode)
        with pytest.raises(UsageError) as refused:
            read_passphrase(path, None, twice=True)
        assert "chmod 600" in refused.value.hint and "secret" not in str(refused.value)


def test_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    for data, found in (
        (b"x", b"x"), (b"x\n", b"x"), (b"x\r\n", b"x"), (b"x\n\n", b"x\n"), (b" x ", b" x "),
    ):  # fmt: skip
        path.write_bytes(data)
        assert read_passphrase(path, None, twice=False) == found
    for data in (b"", b"\n", b"\xff\xfesecret", b"s" * 70_000):
        path.write_bytes(data)
        with pytest.raises(UsageError) as refused:
            read_passphrase(path, None, twice=False)
        assert "secret" not in repr(refused.value) and "sss" not in repr(refused.value)
        assert refused.value.__context__ is None  # a decoder's error would hold the bytes
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(DeidError):
            read_passphrase(missing, None, twice=False)


def test_one_spelling_of_a_word(tmp_path: Path) -> None:
    """A keyboard that composes its accents opens what another one closed."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert read_passphrase(None, composed, twice=False) == read_passphrase(None, apart, twice=False)


def test_the_environment_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(passwords.ENVIRONMENT, PECULIAR)
    assert passwords.take_environment() == PECULIAR
    assert passwords.ENVIRONMENT not in os.environ and passwords.take_environment() is None
    with pytest.raises(UsageError, match="empty"):
        read_passphrase(None, "", twice=False)


def test_asked_for_twice_without_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no terminal"):
        read_passphrase(None, None, twice=True)
    typed: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed.pop(0))
    typed[:] = ["one long word", "one long word"]
    assert read_passphrase(None, None, twice=True) == b"one long word" and not typed
    typed[:] = ["one long word", "two long words"]
    with pytest.raises(DeidError, match="differ"):
        read_passphrase(None, None, twice=True)
    typed[:] = ["one", "two"]
    assert read_passphrase(None, None, twice=False) == b"one" and typed == ["two"]


@pytest.mark.parametrize("word", WEAK)
def test_weak_new_passwords_are_refused(tmp_path: Path, word: str, deid: Deid) -> None:
    """And those of old outputs still open them."""
    path = password_file(tmp_path, word)
    with pytest.raises(UsageError) as refused:
        read_passphrase(path, None, twice=True)
    assert word not in refused.value.message or len(word) < 3
    with pytest.raises(UsageError):
        read_passphrase(None, word, twice=True)
    assert read_passphrase(path, None, twice=False) == word.encode()


def test_a_weak_password_stops_a_run_before_it_begins(tmp_path: Path, deid: Deid) -> None:
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    for extra in (["--method", "cells"], ["--seal"]):
        args = ["anonymize", folder, "--out", out, *extra, "--workers", 1, "--password-file"]
        outcome = deid(*args, password_file(tmp_path, "short words"))
        assert outcome.code == 2 and "shorter than 12 characters" in outcome.stderr
        assert not out.exists() and not private_folder(out).exists()


@pytest.mark.parametrize("word", ["secret words", PECULIAR, "pass word kettle 9", "918273640512"])
def test_other_passwords_are_taken(word: str) -> None:
    assert read_passphrase(None, word, twice=True) == word.encode()


def test_the_floor_counts_characters_after_nfc() -> None:
    """Eleven of them are eleven, however the keyboard writes the accents."""
    apart = "e\u0301kqmzwbtrxv"
    assert len(apart) == 12
    with pytest.raises(UsageError, match="shorter"):
        read_passphrase(None, apart, twice=True)
    assert read_passphrase(None, apart + "p", twice=True)


def test_who_needs_one_and_who_does_not(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(passwords.ENVIRONMENT, raising=False)
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--workers", 1]
    for extra in (["--method", "cells"], ["--seal"]):
        outcome = deid(*args, *extra)
        assert outcome.code == 2 and "password" in outcome.stderr
    useless = deid(*args, "--password-file", password_file(tmp_path))
    assert useless.code == 2 and "takes no password" in useless.stderr
    assert not out.exists() and not private_folder(out).exists()


def test_keys_are_what_they_were() -> None:
    """The way from a passphrase to the keys is part of the file format."""
    root = hashlib.scrypt(b"words", salt=KDF.salt, n=KDF.n, r=8, p=1, maxmem=1 << 26, dklen=32)
    keys = derive(b"words", KDF)
    for name in ("network", "seal", "seal nonce", "manifest", "verifier"):
        expected = hmac.digest(root, b"deid 1 " + name.encode() + b"\0", "sha256")
        assert getattr(keys, name.replace(" ", "_")) == expected
    nonce = face_nonce(bytes(32), 5)
    expected = hmac.digest(bytes(32), b"deid 1 nonce\0" + (5).to_bytes(8, "little"), "sha256")
    assert nonce == expected[:16].hex()
    halves = {face_nonce(bytes(32), seed) for seed in (5, 5 << 32, 5 + (1 << 63), 5 + (1 << 32))}
    assert len(halves) == 4  # all 64 bits of a seed count
    digest = hmac.digest(keys.network, b"deid 1 bits\0" + expected[:16], "sha256")
    assert (np.packbits(face_bits(keys, [nonce])[0]) == list(digest[:16])).all()
    assert digest[:4].hex() == "7c909630"


def test_each_face_has_bits_of_its_own() -> None:
    keys, other = derive(b"words", KDF), derive(b"wordz", KDF)
    nonces = [face_nonce(bytes(32), seed) for seed in range(500)]
    assert len(set(nonces)) == 500
    bits = face_bits(keys, nonces)
    assert bits.shape == (500, 128) and set(np.unique(bits)) == {0, 1}
    assert len({row.tobytes() for row in bits}) == 500
    assert abs(bits.mean() - 0.5) < 0.01
    assert abs((bits[1:] != bits[:-1]).mean() - 0.5) < 0.01
    assert abs((bits != face_bits(other, nonces)).mean() - 0.5) < 0.01
    with pytest.raises(ValueError):
        face_bits(keys, ["no hex"])


def test_forged_costs_are_refused() -> None:
    good = KDF.as_dict()
    assert Kdf.from_dict(good) == KDF
    for change in (
        {"n": 1 << 30}, {"n": 2}, {"n": 3 << 13}, {"n": -(1 << 14)}, {"r": 64}, {"p": 9},
        {"salt": "00"}, {"salt": "zz"}, {"kdf": "md5"}, {"n": None},
    ):  # fmt: skip
        with pytest.raises(DeidError):
            Kdf.from_dict({**good, **change})
    for nothing in (None, {}, [], "scrypt"):
        with pytest.raises(DeidError):
            Kdf.from_dict(nothing)


def test_no_repr_shows_a_key(tmp_path: Path) -> None:
    keys = derive(b"words", KDF)
    source = Source("folder", tmp_path, (), 0, "")
    held = RunKeys(keys, KDF, bytes(32))
    run = Run(RunSettings("blackout"), source, tmp_path, "", {}, None, "", password=held)
    shown = repr(run) + repr(held) + repr(keys) + str(keys)
    for key in (keys.network, keys.seal, keys.seal_nonce, keys.manifest, keys.verifier):
        assert repr(key) not in shown and key.hex() not in shown
    assert pickle.loads(pickle.dumps(run)).password == held  # as a worker gets it


def test_salt_and_nonces(tmp_path: Path, deid: Deid) -> None:
    """Random, unless --seed asks for a run that can be repeated; kept over a resume."""
    folder = png_people(tmp_path / "in", 2)
    secret = ["--password-file", password_file(tmp_path)]
    base = [
        "anonymize",
        folder,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
        *secret,
    ]
    keep = ["--names", "keep"]
    outs = {}
    for name, extra in {
        "random": keep, "again": keep, "seeded": ["--seed", 0, *keep],
        "repeated": ["--seed", 0, *keep], "other": ["--seed", 1, *keep], "hidden": ["--seed", 0],
    }.items():  # fmt: skip
        outs[name] = tmp_path / name
        assert deid(*base, "--out", outs[name], *extra).code == 0
    records = {name: manifest_without_times(out) for name, out in outs.items()}
    salts = {name: record["password"]["salt"] for name, record in records.items()}
    assert salts.pop("seeded") == salts["repeated"] and len(set(salts.values())) == 5
    assert tree(outs["seeded"]) == tree(outs["repeated"])
    assert records["seeded"] == records["repeated"]
    nonces = [
        row["faces"][0]["nonce"]
        for name in salts
        for row in pq.read_table(outs[name] / "metadata.parquet").to_pylist()
    ]
    assert len(set(nonces)) == len(nonces) == 10

    before = tree(outs["random"])
    (outs["random"] / "manifest.json").unlink()
    (outs["random"] / "images/person_01.png").unlink()
    assert deid(*base, *keep, "--out", outs["random"]).code == 0
    assert tree(outs["random"]) == before
    assert manifest_without_times(outs["random"]) == records["random"]


def test_no_key_stands_in_out(tmp_path: Path, deid: Deid) -> None:
    """None that was derived from the password, in no spelling."""
    folder, out = png_people(tmp_path / "in", 2), tmp_path / "out"
    secret = ["--password-file", password_file(tmp_path, PECULIAR)]
    args = [
        "anonymize",
        folder,
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    kdf = Kdf.from_dict(manifest_without_times(out)["password"])
    keys = derive(PECULIAR.encode(), kdf)
    verifier = keys.verifier.hex().encode()
    for path in files_below(out):
        assert not (found := [w for w in forms_of_keys(keys) if w in path.read_bytes()]), found
    private = b"".join(path.read_bytes() for path in files_below(private_folder(out)))
    assert verifier in private
    others = (keys.network, keys.seal, keys.seal_nonce, keys.manifest)
    assert not any(key in private or key.hex().encode() in private for key in others)
    assert Journal(out).read_run() is not None


def test_two_passwords_two_sets_of_faces(tmp_path: Path, deid: Deid) -> None:
    folder = png_people(tmp_path / "in", 2)
    base = [
        "anonymize",
        folder,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
        "--seed",
        2,
        "--names",
        "keep",
    ]
    for name in ("one", "two"):
        secret = ["--password-file", password_file(tmp_path, f"the password number {name}")]
        assert deid(*base, *secret, "--out", tmp_path / name).code == 0
    one, two = tree(tmp_path / "one/images"), tree(tmp_path / "two/images")
    assert one.keys() == two.keys() and all(one[name] != two[name] for name in one)


def files_below(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def forms_of_keys(keys: crypto_keys.Keys) -> list[bytes]:
    raw = [keys.network, keys.seal, keys.seal_nonce, keys.manifest, keys.verifier]
    return [form for key in raw for form in (key, key.hex().encode(), base64.b64encode(key))]


def forms(word: str) -> list[bytes]:
    """How a passphrase could stand somewhere."""
    plain = word.encode()
    raw = [plain, word.encode("utf-16-le"), word.encode("utf-16-be"), word.encode("latin-1")]
    coded = [base64.b64encode(plain), base64.b32encode(plain), plain.hex().encode(), plain[::-1]]
    coded += [repr(plain).encode(), repr(word).encode("ascii", "backslashreplace")]
    coded += [hashlib.new(kind, plain).hexdigest().encode() for kind in ("md5", "sha1", "sha256")]
    # base64 of it amid other text: at any offset these stand whole
    coded += [base64.b64encode(bytes(n) + plain)[4:-4] for n in (1, 2)]
    return [*raw, *coded]


def children(parent: int) -> list[int]:
    """All processes below one."""
    of: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                above = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            of.setdefault(above, []).append(int(entry.name))
    found, todo = [], [parent]
    while todo:
        todo += (below := of.get(todo.pop(), []))
        found += below
    return found


def seen_in_processes(process: subprocess.Popen[bytes], begun: Path) -> tuple[bytes, bytes, int]:
    """While it runs: every command line, and the environments.

    Its own from when `begun` is there: until Python is up, that is what the user gave it.
    """
    lines, environments, most = b"", b"", 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        below = children(process.pid)
        most = max(most, len(below))
        for pid in (process.pid, *below):
            try:
                lines += Path(f"/proc/{pid}/cmdline").read_bytes()
                if pid != process.pid or begun.exists():
                    environments += Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:  # it has ended
                continue
        listed = subprocess.run(["ps", "-ef"], capture_output=True, check=False)
        lines += listed.stdout
        time.sleep(0.2)
    return lines, environments, most


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_the_password_is_found_nowhere(tmp_path: Path) -> None:
    """A sealed run by two workers, with the environment's; its restoration, with a file's.

    Looked for in files, output, command lines and the workers' environments.
    """
    folder, out, to = png_people(tmp_path / "in", 4), tmp_path / "out", tmp_path / "to"
    clean = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "tmp").mkdir()
    words, given = forms(PECULIAR), password_file(tmp_path, PECULIAR)
    assert words[0] in given.read_bytes()
    run = ["anonymize", folder, "--out", out, "--method", "blur", "--seal", "--workers", 2]
    run += ["--detector", "hog", "--no-gate"]
    said = b""
    back = ["restore", out, "--to", to, "--json", "--password-file", given]
    for args, environment, begun, least in (
        (run, {**clean, passwords.ENVIRONMENT: PECULIAR}, private_folder(out), 3),
        (back, clean, out, 0),
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "deidcli", *map(str, args)],
            env=environment,
            stdout=(tmp_path / "stdout").open("ab"),
            stderr=(tmp_path / "stderr").open("ab"),
        )
        lines, environments, most = seen_in_processes(process, begun)
        assert b"TMPDIR" in environments
        assert process.returncode == 0, (tmp_path / "stderr").read_text()
        assert most >= least
        said += lines + environments
    said += (tmp_path / "stdout").read_bytes() + (tmp_path / "stderr").read_bytes()
    assert not [word for word in words if word in said]
    places = [out, private_folder(out), to, tmp_path / "tmp"]
    searched = [(path, path.read_bytes()) for path in files_below(*places)]
    assert len(searched) > 12
    hits = [path for path, data in searched if any(word in data for word in words)]
    assert not hits
    keys = derive(PECULIAR.encode(), Kdf.from_dict(manifest_without_times(out)["password"]))
    secret = [form for form in forms_of_keys(keys) if keys.verifier.hex().encode() != form]
    assert not [path for path, data in searched if any(form in data for form in secret)]


def test_a_guess_costs_what_the_documents_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB a guess for a new run; a manifest may ask for no less than an eighth of it."""
    assert (COST, crypto_keys.SCRYPT_R, crypto_keys.SCRYPT_P) == (1 << 17, 8, 1)
    assert crypto_keys.COSTS == (1 << 14, 1 << 20)
    for n in (1 << 13, 1 << 21):
        with pytest.raises(DeidError):
            Kdf.from_dict({**KDF.as_dict(), "n": n})
    monkeypatch.setattr(crypto_keys, "SCRYPT_N", 1 << 15)  # not the least
    made = crypto_keys.new_kdf(bytes(32))
    assert made.n == 1 << 15 and (made.r, made.p, len(made.salt)) == (8, 1, 16)
