"""Fuzzes `octavo.load` with the bytes of files: ONNX and .octavo.

    python tests/fuzz/fuzz_load.py CORPUS -max_total_time=30

needs the package atheris; options are libFuzzer's. A file may give a model or a ModelError, and nothing
else. Half of all mutations are of single fields, so that what comes of them is still a file.
"""

import collections
import contextlib
import copy
import io
import json
import random
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris
import onnx

with atheris.instrument_imports(include=["octavo"]):
    import octavo as oc
    import octavo.graph.model  # what `load` brings in

sys.path.insert(0, str(Path(__file__).parents[1] / "graph"))
warnings.simplefilter("ignore")

LARGEST_SEED, MOST_OF_A_KIND = 4096, 2
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 2**31 - 1, -(2**31), 2**31, 2**62, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("inf"), float("nan"))


def write_seeds(folder):
    """The models that this suite makes, as both kinds of file, and onnx's cases of single operators."""
    import test_quantized as made
    from onnx.backend.test.case.node import collect_testcases

    models = [made.net(body, **constants) for body, constants, *_ in made.CASES.values()]
    models += [made.net(f"{ins} {{ {body} }}", **c) for body, _, c, ins in made.PAIRS.values()]
    for i, proto in enumerate(models):
        (folder / f"made-{i}.onnx").write_bytes(proto.SerializeToString())
        with tempfile.TemporaryDirectory() as place:
            oc.load(proto).save(Path(place, "m.octavo"))
            (folder / f"made-{i}.octavo").write_bytes(Path(place, "m.octavo").read_bytes())
    counts = collections.Counter()
    for case in collect_testcases(None):
        content = case.model.SerializeToString()
        operators = tuple(node.op_type for node in case.model.graph.node)
        if len(content) <= LARGEST_SEED and counts[operators] < MOST_OF_A_KIND:
            counts[operators] += 1
            (folder / f"{case.name}.onnx").write_bytes(content)


def fuzz(data):
    with contextlib.suppress(oc.ModelError):
        oc.load(data)


# --- mutation -------------------------------------------------------------------------------------


def mutate(data, max_size, seed):
    rng = random.Random(seed)
    change = change_archive if data[:2] == b"PK" else change_proto
    if rng.random() < 0.5:
        try:
            changed = change(data, rng)
        except Exception:  # noqa: BLE001  (what is no such file any more)
            changed = b""
        if 0 < len(changed) <= max_size:
            return changed
    return atheris.Mutate(data, max_size)


def change_proto(data, rng):
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.randint(1, 3)):
        places = list(fields(model))
        message, field = rng.choice(places)
        with contextlib.suppress(ValueError, TypeError, IndexError):  # what the field does not hold
            change_field(message, field, places, rng)
    return model.SerializeToString()


def fields(message):
    """Every field that is there, below a message."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for each in value if is_repeated(field) else [value]:
                yield from fields(each)


def is_repeated(field):
    return hasattr(field.default_value, "__len__") and not isinstance(
        field.default_value, str | bytes
    )


def change_field(message, field, places, rng):
    name, value = field.name, getattr(message, field.name)
    if is_repeated(field):
        i, what = rng.randrange(len(value)), rng.randrange(4)
        if what == 0:
            del value[i]
        elif field.message_type is not None:
            if what == 1:
                value.append(copy.deepcopy(value[i]))
            else:
                other = rng.choice([getattr(m, f.name) for m, f in places if f is field] or [value])
                value[i].CopyFrom(copy.deepcopy(rng.choice(other)))  # it may be around this one
        elif what == 1:
            value.append(value[i])
        else:
            value[i] = single(value[i], places, rng)
    elif field.message_type is not None:
        message.ClearField(name)
    else:
        setattr(message, name, single(value, places, rng))


def single(value, places, rng):
    if isinstance(value, str):
        names = [getattr(m, f.name) for m, f in places if f.name in ("name", "op_type", "key")]
        return rng.choice([*names, "", value + "x"])
    if isinstance(value, bytes):
        cut = rng.randrange(len(value) + 1)
        return rng.choice([value[:cut], value + value[:cut], bytes(len(value))])
    if isinstance(value, float):
        return rng.choice(FLOATS)
    return rng.choice([*NUMBERS, value + 1, value - 1, rng.randrange(32)])


def change_archive(data, rng):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    graph = json.loads(members["graph.json"])
    for _ in range(rng.randint(1, 3)):
        change_tree(graph, rng)
    members["graph.json"] = json.dumps(graph).encode()
    if rng.random() < 0.2:
        del members[rng.choice(list(members))]
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return result.getvalue()


def change_tree(tree, rng):
    """Change one leaf or branch of what JSON holds."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(tree[key], dict | list) and rng.random() < 0.9:
            tree = tree[key]
            continue
        if rng.random() < 0.2:
            del tree[key]
        else:
            others = [tree[other] for other in keys]
            tree[key] = rng.choice([*NUMBERS, *others, "", "x", None, [], {}, 0.5, True])
        return


def main():
    folders = [each for each in sys.argv[1:] if not each.startswith("-")]
    if folders and not any(Path(folders[0]).glob("*")):
        Path(folders[0]).mkdir(parents=True, exist_ok=True)
        write_seeds(Path(folders[0]))
    atheris.Setup(sys.argv, fuzz, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
