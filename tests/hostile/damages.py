"""What is done to a good file: each damage changes the file at a path."""

from __future__ import annotations

import builtins
import gzip
import io
import lzma
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch

from tests.hostile import sources

Random = np.random.Generator
Damage = Callable[[Path, Random, Path], None]  # of a path, by chance; code that runs makes the third
MANY = (10**9, 10**10, 10**12)
_BOMB = 3 << 30  # bytes, unpacked
_PART = 1 << 26


class Malicious:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, marker: Path, way: int = 0) -> None:
        self.marker, self.way = str(marker), way % 3

    def __reduce__(self) -> tuple[Any, ...]:
        ways = [(os.mkdir, (self.marker,)), (open, (self.marker, "w"))]
        return [*ways, (builtins.exec, (f"open({self.marker!r}, 'w')",))][self.way]


class Script(torch.nn.Module):
    """A module whose TorchScript makes a file when it is read."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Do nothing."""
        return x

    @torch.jit.export
    def __getstate__(self):  # TorchScript finds it out
        return (self.marker, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.marker = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])


def script(marker: Path) -> bytes:
    """Return a TorchScript archive that makes ``marker`` when it is read."""
    packed = io.BytesIO()
    torch.jit.save(torch.jit.script(Script(str(marker))), packed)
    return packed.getvalue()


# --- of any file -----------------------------------------------------------------------------------


def truncated(path: Path, random: Random, _: Path) -> None:
    """Cut the file short, often by a little."""
    size = path.stat().st_size
    lost = random.integers(1, 65) if random.random() < 0.3 else random.integers(1, size)
    os.truncate(path, max(1, size - int(lost)))


def flipped(path: Path, random: Random, _: Path) -> None:
    """Flip one to three bits."""
    content = bytearray(path.read_bytes())
    for place in random.integers(len(content), size=random.integers(1, 4)):
        content[place] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def empty(path: Path, _random: Random, _: Path) -> None:
    """Leave no byte."""
    path.write_bytes(b"")


def junk(path: Path, random: Random, _: Path) -> None:
    """Put random bytes, or zeros, in its place."""
    size = path.stat().st_size
    path.write_bytes(random.bytes(size) if random.random() < 0.7 else bytes(size))


def folder(path: Path, _random: Random, _: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def foreign(path: Path, random: Random, _: Path) -> None:
    """Put a file of another format in its place."""
    others = [b"2\n\nCu 0 0 0\nCu 1 1", b'{"a": [1, 2, {"b": null}]}', b"\x89PNG\r\n\x1a\n" + bytes(99)]
    packed = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, packed)
    others += [packed.getvalue(), gzip.compress(b"text"), lzma.compress(b"text"), b"SQLite format 3\0"]
    path.write_bytes(others[random.integers(len(others))])


def pickled(path: Path, random: Random, marker: Path) -> None:
    """Put a pickle in its place that runs code."""
    way, protocol = int(random.integers(3)), int(random.integers(5))
    path.write_bytes(pickle.dumps(Malicious(marker, way), protocol=protocol))


def doubled(path: Path, _random: Random, _: Path) -> None:
    """Append the file to itself."""
    path.write_bytes(path.read_bytes() * 2)


ANY: dict[str, Damage] = {
    "cut short": truncated,
    "bits flipped": flipped,
    "empty": empty,
    "junk": junk,
    "a folder": folder,
    "another format": foreign,
    "a malicious pickle": pickled,
    "appended to itself": doubled,
}


# --- of texts, packed or not -----------------------------------------------------------------------


def _edited(path: Path, change: Callable[[str], str]) -> None:
    pack, unpack = {
        ".gz": (gzip.compress, gzip.decompress),
        ".xz": (lzma.compress, lzma.decompress),
    }.get(path.suffix, (bytes, bytes))
    path.write_bytes(pack(change(unpack(path.read_bytes()).decode()).encode()))


def blank_lines(path: Path, random: Random, _: Path) -> None:
    """Put a blank line, or several, somewhere."""

    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        place = int(random.integers(len(lines) + 1))
        return "".join([*lines[:place], "\n" * int(random.integers(1, 4)), *lines[place:]])

    _edited(path, change)


def lost_line(path: Path, random: Random, _: Path) -> None:
    """Leave one line out."""

    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        del lines[random.integers(len(lines))]
        return "".join(lines)

    _edited(path, change)


def other_number(path: Path, random: Random, _: Path) -> None:
    """Put NaN, infinity or a word in a number's place."""
    word = str(random.choice(["nan", "inf", "-inf", ".nan", "abc", "1e999"]))

    def change(text: str) -> str:
        found = list(re.finditer(r"-?\d+\.\d+(e-?\d+)?", text))
        one = found[random.integers(len(found))]
        return text[: one.start()] + word + text[one.end() :]

    _edited(path, change)


def declared_atoms(path: Path, random: Random, _: Path) -> None:
    """Let an xyz file's first line declare very many atoms."""
    _edited(path, lambda text: re.sub(r"^\d+", str(random.choice(MANY)), text, count=1))


def declared_by_element(path: Path, random: Random, _: Path) -> None:
    """Let a POSCAR or XDATCAR file declare very many atoms of an element, or another number that is wrong."""
    counts = [random.choice(MANY), *random.choice([-1, 0, 2, 9, "x"], 2)]

    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        words = lines[6].split()
        words[random.integers(len(words))] = str(random.choice(counts))
        lines[6] = f"{' '.join(words)}\n"
        return "".join(lines)

    _edited(path, change)


def mixed_site(path: Path, random: Random, _: Path) -> None:
    """Let a site of a CIF file be occupied in part."""

    def change(text: str) -> str:
        places = [match.end() for match in re.finditer(r"^  Cu\d* .* ", text, re.MULTILINE)]
        end = places[random.integers(len(places))]
        return f"{text[:end]}{random.choice(['0.5', '0', '2', '1/2'])}{text[text.index(chr(10), end) :]}"

    _edited(path, change)


def tagged_yaml(path: Path, _random: Random, marker: Path) -> None:
    """Put a tag that calls a function at the end of a YAML file."""
    call = f"!!python/object/apply:os.mkdir ['{marker}']"
    _edited(path, lambda text: f"{text}more: {call}\n")


def packed_bomb(path: Path, random: Random, _: Path) -> None:
    """Put a small file in its place that unpacks to 3 GiB, in one line or in many."""
    part = (b"0 " if random.random() < 0.5 else b"0\n") * (_PART // 2)
    pack = {".gz": gzip.compress, ".xz": lzma.compress}[path.suffix]
    path.write_bytes(pack(part) * (_BOMB // _PART))


TEXT: dict[str, Damage] = {"blank lines": blank_lines, "no number": other_number}


# --- of structures and labels: a file is written whose content is wrong -----------------------------


def wrong_values(write: Callable[[Path, list[Any]], None]) -> Damage:
    """Return a damage: one frame has a value that cannot be."""

    def damage(path: Path, random: Random, _: Path) -> None:
        found = sources.frames()
        atoms = found[random.integers(len(found))]
        bad, results = random.choice([np.nan, np.inf, -np.inf]), atoms.calc.results
        which = random.integers(7)
        if which == 0:
            results["energy"] = bad
        elif which == 1:
            results["forces"][1, 2] = bad
        elif which == 2:
            atoms.positions[2, 1] = bad
        elif which == 3:
            atoms.cell[1, 1] = bad
        elif which == 4:
            atoms.numbers[0] = random.choice([90, 100, 118])
        elif which == 5:
            atoms.positions[1] = atoms.positions[0]
        else:
            atoms.info["fid"] = 0.5
        atoms.calc.atoms = atoms.copy()  # or ASE takes the results for those of another structure
        with suppress(OSError):  # the data set's writer finds afterwards that the value does not come back
            write(path, found)

    return damage


def same_ids(write: Callable[[Path, list[Any]], None]) -> Damage:
    """Return a damage: two frames have one id."""

    def damage(path: Path, random: Random, _: Path) -> None:
        found = sources.frames()
        one, other = random.permutation(len(found))[:2]
        found[one].info.update(found[other].info)
        write(path, found)

    return damage


def other_order(write: Callable[[Path, list[Any]], None]) -> Damage:
    """Return a damage: the frames come in another order, each with its id."""

    def damage(path: Path, random: Random, _: Path) -> None:
        found = sources.frames()
        write(path, [found[k] for k in random.permutation(len(found))])

    return damage


def of_frames(write: Callable[[Path, list[Any]], None]) -> dict[str, Damage]:
    """Return the damages of a format of frames."""
    return {
        "a wrong value": wrong_values(write),
        "an id twice": same_ids(write),
        "another order": other_order(write),
    }


def declared_frames(path: Path, random: Random, _: Path) -> None:
    """Let the header of a trajectory declare very many frames."""
    content = bytearray(path.read_bytes())
    content[32:40] = struct.pack("<q", int(random.choice(MANY)))
    path.write_bytes(content)


# --- of LMDB files of pickles ----------------------------------------------------------------------


class _Loaded:
    """Bytes that a pickle passes to ``torch.storage._load_from_bytes``."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.content,)


class _Rebuilt:
    """A tensor of any size, of which a storage has only one number."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.zeros(1, dtype=torch.float32).storage()
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.size, (0,) * len(self.size), False, {})


def _stored(path: Path, change: Callable[[dict[bytes, bytes]], None]) -> None:
    """Change the entries of an LMDB file."""
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as before, before.begin() as reader:
        entries = {bytes(key): bytes(value) for key, value in reader.cursor()}
    path.unlink()
    change(entries)
    settings = {"subdir": False, "lock": False, "map_size": 1 << 26}
    with lmdb.open(str(path), **settings) as after, after.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)


def _one_sample(path: Path, random: Random, name: str, value: Any) -> None:
    """Put a value into one sample."""

    def change(entries: dict[bytes, bytes]) -> None:
        key = str(random.integers(8)).encode()
        sample = pickle.loads(entries[key])
        sample[name] = value
        entries[key] = pickle.dumps(sample)

    _stored(path, change)


def pickled_sample(path: Path, random: Random, marker: Path) -> None:
    """Put an object that runs code into a sample, beside its values or for one."""
    name = str(random.choice(["more", "energy", "pos", "sid"]))
    _one_sample(path, random, name, Malicious(marker, int(random.integers(3))))


def pickled_length(path: Path, random: Random, marker: Path) -> None:
    """Put an object that runs code where the number of samples is, or a whole sample."""
    key = [b"length", b"0"][random.integers(2)]
    _stored(path, lambda entries: entries.update({key: pickle.dumps(Malicious(marker))}))


def scripted_sample(path: Path, random: Random, marker: Path) -> None:
    """Put a TorchScript archive where a tensor's storage is."""
    _one_sample(path, random, str(random.choice(["more", "pos"])), _Loaded(script(marker)))


def declared_samples(path: Path, random: Random, _: Path) -> None:
    """Let the file declare very many samples, or fewer than none, or no number."""
    value = [*MANY, -1, "abc", 3.5, None][random.integers(7)]
    _stored(path, lambda entries: entries.update({b"length": pickle.dumps(value)}))


def declared_tensor(path: Path, random: Random, _: Path) -> None:
    """Let a tensor declare very many numbers, of which its storage has one."""
    size = (int(random.choice(MANY)), 3)
    _one_sample(path, random, str(random.choice(["pos", "forces", "more"])), _Rebuilt(size))


def other_type(path: Path, random: Random, _: Path) -> None:
    """Put a text, None, or an array of another shape in a value's place."""
    values = ["abc", torch.zeros(7), np.zeros((2, 2)), [1, "2"], float("nan"), {"a": 1}, None]
    name = str(random.choice(["pos", "cell", "atomic_numbers", "natoms", "energy", "forces", "fixed"]))
    if name in ("energy", "forces", "fixed"):  # None of these is a sample without
        values.pop()
    _one_sample(path, random, name, values[random.integers(len(values))])


def lost_sample(path: Path, random: Random, _: Path) -> None:
    """Leave one sample out."""
    _stored(path, lambda entries: entries.pop(str(random.integers(8)).encode()))


PICKLES: dict[str, Damage] = {
    "a malicious sample": pickled_sample,
    "a malicious length": pickled_length,
    "TorchScript for a storage": scripted_sample,
    "many samples declared": declared_samples,
    "a large tensor declared": declared_tensor,
    "a value of another type": other_type,
    "a sample missing": lost_sample,
}


def declared_rows(path: Path, random: Random, _: Path) -> None:
    """Let an ASE-LMDB declare very many rows."""
    rows = zlib.compress(str(random.choice(MANY)).encode())
    _stored(path, lambda entries: entries.update({b"nextid": rows}))


def row_bomb(path: Path, random: Random, _: Path) -> None:
    """Put 3 GiB of blanks, packed, in the place of a row."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b" " * _PART) for _ in range(_BOMB // _PART)) + packer.flush()
    _stored(path, lambda entries: entries.update({str(random.integers(1, 9)).encode(): packed}))


ROWS: dict[str, Damage] = {"many rows declared": declared_rows, "a bomb": row_bomb}


# --- of npz files ----------------------------------------------------------------------------------


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return dict(found)


def malicious_array(path: Path, random: Random, marker: Path) -> None:
    """Put an array of objects, one of which runs code, in an array's place."""
    found = _arrays(path)
    found[random.choice(list(found))] = np.array([Malicious(marker, int(random.integers(3)))], dtype=object)
    sources.write_arrays(path, found)


def wrong_array(path: Path, random: Random, _: Path) -> None:
    """Put numbers that cannot be, texts or another shape in an array, or leave it out."""
    found = _arrays(path)
    name, which = random.choice([key for key in found if not key.endswith("ids")]), random.integers(4)
    values = found[name]
    if which == 0:
        del found[name]
    elif which == 1:
        found[name] = values.astype("U")
    elif which == 2:
        found[name] = np.full(values.shape, random.choice([np.nan, np.inf]))
    else:
        found[name] = -values if values.dtype.kind in "iu" else values.reshape(-1, 1, 1)
    sources.write_arrays(path, found)


def short_array(path: Path, random: Random, _: Path) -> None:
    """Leave out the last row of an array, but of forces."""
    _shorten(path, random, lambda name: not name.endswith("forces"))


def short_forces(path: Path, random: Random, _: Path) -> None:
    """Leave out the force on the last atom of the last structure."""
    _shorten(path, random, lambda name: name.endswith("forces"))


def _shorten(path: Path, random: Random, is_meant: Callable[[str], bool]) -> None:
    found = _arrays(path)
    name = random.choice(list(filter(is_meant, found)))
    found[name] = found[name][:-1]
    sources.write_arrays(path, found)


def ids_twice(path: Path, _random: Random, _: Path) -> None:
    """Give two structures one id."""
    found = _arrays(path)
    name = next(key for key in found if key.endswith("ids"))
    found[name][1] = found[name][0]
    sources.write_arrays(path, found)


def declared_array(path: Path, random: Random, _: Path) -> None:
    """Let the header of an array declare very many numbers."""
    found = _arrays(path)
    name = random.choice(list(found))
    shape, kind = (int(random.choice(MANY)), *found[name].shape[1:]), found[name].dtype.str
    header = io.BytesIO()
    header_of = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, header_of)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, values in found.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, values)
            archive.writestr(f"{key}.npy", header.getvalue() if key == name else buffer.getvalue())


def array_bomb(path: Path, random: Random, _: Path) -> None:
    """Put 3 GiB of zeros, packed, in an array's place."""
    found = _arrays(path)
    name = random.choice(list(found))
    kind, rest = found[name].dtype, found[name].shape[1:]
    rows = _BOMB // (kind.itemsize * int(np.prod(rest)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, values in found.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                if key != name:
                    np.lib.format.write_array(file, values)
                    continue
                header = {"descr": kind.str, "fortran_order": False, "shape": (rows, *rest)}
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(_BOMB // _PART):
                    file.write(bytes(_PART))


ARRAYS: dict[str, Damage] = {
    "a malicious array": malicious_array,
    "a wrong array": wrong_array,
    "a row missing": short_array,
    "many numbers declared": declared_array,
    "a bomb": array_bomb,
}
RESULTS = {**ARRAYS, "a force missing": short_forces, "an id twice": ids_twice}


# --- of checkpoints --------------------------------------------------------------------------------


def malicious_checkpoint(path: Path, random: Random, marker: Path) -> None:
    """Put an object that runs code into a checkpoint."""
    found = torch.load(path, weights_only=False)
    if isinstance(found, dict):
        found["more"] = Malicious(marker, int(random.integers(3)))
    else:
        found.more = Malicious(marker, int(random.integers(3)))
    torch.save(found, path)


def scripted_checkpoint(path: Path, _random: Random, marker: Path) -> None:
    """Put a TorchScript archive in the place of a checkpoint."""
    path.write_bytes(script(marker))


def wrong_weights(path: Path, random: Random, _: Path) -> None:
    """Put NaN, another shape, a text or nothing in a weight's place."""
    found = torch.load(path, weights_only=False)
    states = [found["state_dict"]] if isinstance(found, dict) else [found.model_state_dict]
    if not isinstance(found, dict):
        states.append(found.ema_state_dict)
    for weights in states:
        name = [key for key in weights if torch.is_tensor(weights[key]) and weights[key].ndim][3]
        which = random.integers(4)
        if which == 0:
            weights[name] = weights[name] * torch.nan
        elif which == 1:
            weights[name] = weights[name][:-1]
        elif which == 2:
            weights[name] = "abc"
        else:
            del weights[name]
    torch.save(found, path)


CHECKPOINTS: dict[str, Damage] = {
    "a malicious entry": malicious_checkpoint,
    "TorchScript": scripted_checkpoint,
    "a wrong weight": wrong_weights,
}
