"""`check --fix`: what only one thing can be meant by is written, and nothing else; strangers' files stay theirs."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from tests.builder.lint.fixtures import MODEL_PY, fixtures, onnx_bytes
from tests.builder.lint.test_command import run
from tests.builder.lint.test_fuzz import mutated_text
from tritonsmith.builder.base.errors import ConfigError
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.commands.check import differences
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.lint.fix import mended, write
from tritonsmith.builder.lint.read.edits import Edit, Place, edited
from tritonsmith.builder.lint.read.pbtxt import parse_config
from tritonsmith.builder.lint.read.spelling import meant_name, meant_value

TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\noutput { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }\n'
ONNX = 'backend: "onnxruntime"\nmax_batch_size: 8\n'


def onnx_model(root: Path, text: str | bytes, name: str = "detector") -> Path:
    """A model directory with an ONNX file of x[batch, 4] → y[batch, 4]; its config.pbtxt."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.onnx").write_bytes(onnx_bytes())
    config = root / name / "config.pbtxt"
    config.write_bytes(text.encode() if isinstance(text, str) else text)
    return config


def after(root: Path, options: LintOptions | None = None) -> str | None:
    """What --fix makes of the only config below; None when it leaves it."""
    mends = list(mended([root], options or LintOptions()))
    return mends[0].after if mends else None


def write_all(*paths: Path) -> None:
    for mend in mended(paths, LintOptions()):
        write(mend)


@pytest.mark.parametrize(
    ("before", "then", "why"),
    [
        (ONNX.replace("size", "sze") + TENSORS, ONNX + TENSORS, "one letter is left out"),
        (ONNX.replace("_size", "") + TENSORS, ONNX + TENSORS, "the last word is left out"),
        (ONNX.replace("max_batch_size", "maxBatchSize") + TENSORS, ONNX + TENSORS, "another language's spelling"),
        (ONNX + TENSORS.replace("input", "inputs"), ONNX + TENSORS, "one letter too many"),
        (ONNX + TENSORS.replace("TYPE_FP32", "type_fp32"), ONNX + TENSORS, "a wrong case"),
        (ONNX + TENSORS.replace("TYPE_FP32", '"TYPE_FP32"'), ONNX + TENSORS, "quotes around an enum's value"),
        (ONNX + TENSORS.replace("TYPE_FP32", "FP32"), ONNX + TENSORS, "an enum's value without its prefix"),
        (ONNX.replace('"', "") + TENSORS, ONNX + TENSORS, "no quotes around a text"),
        (ONNX.replace("8", '"8"') + TENSORS, ONNX + TENSORS, "quotes around a number"),
        (ONNX.replace("8", "8.0") + TENSORS, ONNX + TENSORS, "a whole number with a fraction"),
        (ONNX.replace("backend:", "backend") + TENSORS, ONNX + TENSORS, "no colon"),
        (ONNX.replace("size:", "size =") + TENSORS, ONNX.replace("size:", "size :") + TENSORS, "= for a colon"),
        ("\ufeff" + ONNX + TENSORS, ONNX + TENSORS, "a byte order mark"),
        (f'name: "other"  # é\n{ONNX}{TENSORS}', f'name: "detector"  # é\n{ONNX}{TENSORS}', "another name"),
        (ONNX + TENSORS.replace("[ 4 ]", "[ -1, 4 ]"), ONNX + TENSORS, "dims with the batch dimension"),
        (ONNX + TENSORS.replace("[ 4 ]", "[8,4]"), ONNX + TENSORS.replace("[ 4 ]", "[4]"), "and with its size"),
        (ONNX + TENSORS.replace("dims: [ 4 ]", "dims: -1 dims: 4"), ONNX + TENSORS.replace("[ 4 ]", "4"), "one by one"),
        (
            ONNX + TENSORS.replace("[ 4 ]", "[ -1,  # batch\n 4 ]"),
            ONNX + TENSORS.replace("[ 4 ]", "[ # batch\n 4 ]"),
            "the comment stays",
        ),
        (
            f"{ONNX}\tinputs: {{ nam 'x'\tdata_tpye = type_fp32 dims: [-1,4] }} # a\n{TENSORS.splitlines()[1]}",
            f"{ONNX}\tinput: {{ name: 'x'\tdata_type : TYPE_FP32 dims: [4] }} # a\n{TENSORS.splitlines()[1]}",
            "a message in the form with a colon, and mistakes in one another",
        ),
    ],
)  # fmt: skip
def test_one_thing_can_be_meant(before: str, then: str, why: str, tmp_path: Path) -> None:
    onnx_model(tmp_path, before)
    assert after(tmp_path) == then, why
    crlf = tmp_path / "crlf"
    onnx_model(crlf, before.replace("\n", "\r\n"))
    assert after(crlf) == then.replace("\n", "\r\n"), why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ONNX + TENSORS + "dynamic_batching { max_queue_delay_milliseconds: 5 }", "milliseconds are not microseconds"),
        (ONNX + TENSORS + "dynamic_batching { max_queue_delay: 5 }", "nobody says in which unit"),
        (ONNX.replace("max_", "min_") + TENSORS, "another word, of the same length"),
        (ONNX + TENSORS.replace("TYPE_FP32", "TYPE_FP23"), "a number is no slip"),
        (ONNX + TENSORS + "instance_group { kind: KIND_PU }", "two are as near"),
        (ONNX.replace("8", "8.5") + TENSORS, "it has a fraction"),
        ("max_batch_sze: 4\n" + ONNX + TENSORS, "it would be there twice"),
        (ONNX + "max_batch_sze: 4\n" + TENSORS, "in the other order"),
        (ONNX + TENSORS.replace("dims: [ 4 ]", "dim: [ -1 ] dims: [ 4 ]"), "the lists would become one"),
        (ONNX + TENSORS.replace("dims: [ 4 ]", "dims: [ 4 ] dim: [ -1 ]"), "in the other order"),
        (ONNX.replace("size", "sze") + TENSORS + "flavour: 1", "another mistake is left, so it would still be refused"),
        (ONNX + TENSORS.replace("[ 4 ]", "[ -1, 5 ]"), "it is not the graph's shape with the batch dimension"),
        (TENSORS.replace("[ 4 ]", "[ -1, 4 ]") + ONNX.replace("8", "0"), "nothing is batched, so it is right"),
        (TENSORS.replace("[ 4 ]", "[ -1, 4 ]") + 'backend: "python"\nmax_batch_size: 8', "no graph says so"),
        ('name: "a"\nname: "b"\n' + ONNX + TENSORS, "which of two?"),
        ("", "nothing"),
    ],
)  # fmt: skip
def test_a_person_has_to_decide(text: str, why: str, tmp_path: Path) -> None:
    onnx_model(tmp_path, text)
    assert after(tmp_path) is None, why
    if why != "it is not the graph's shape with the batch dimension":
        assert not any(f.fixable for f in check([tmp_path])), why


def messages() -> list[object]:
    """Descriptors of ModelConfig and of all that it holds."""
    found = [model_config_pb2().ModelConfig.DESCRIPTOR]
    for message in found:
        found += [f.message_type for f in message.fields if f.message_type not in (None, *found)]
    return found


@pytest.mark.parametrize("message", messages(), ids=lambda m: m.name)
def test_a_slip_of_one_letter_never_becomes_another_field(message: object) -> None:
    names = [f.name for f in message.fields]  # type: ignore[attr-defined]
    enums = [tuple(v.name for v in f.enum_type.values) for f in message.fields if f.enum_type]  # type: ignore[attr-defined]
    for name in names:
        for slip in slips(name):
            assert meant_name(slip, names) in (name, None) or slip in names, slip
    for values in enums:
        for value in values:
            for slip in slips(value):
                assert slip in values or meant_value("enum", slip, False, values) in (value, None), slip


def slips(name: str) -> list[str]:
    """Each letter left out, doubled, and changed with its neighbour; the whole in capitals and in small letters."""
    cuts = [name[:i] + name[i + 1 :] for i in range(len(name))]
    twice = [name[:i] + name[i] + name[i:] for i in range(len(name))]
    swapped = [name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)]
    return [*cuts, *twice, *swapped, name.upper(), name.lower()]


def test_edits_of_the_same_characters_are_refused() -> None:
    place = Place(1, 1, 0, 3)
    assert edited("abcdef", [Edit(place, "x"), Edit(Place(1, 2, 2, 4), "y")]) is None
    assert edited("abcdef", [Edit(Place(1, 4, 3, 3), ":"), Edit(place, "x"), Edit(place, "x")]) == "x:def"


def test_damaged_texts_become_texts_that_parse_or_stay(tmp_path: Path) -> None:
    rng = random.Random(11)
    pairs = [tree.files["repository/m/config.pbtxt"] for p in fixtures().values() for tree in (p.bad, p.good)
             if "repository/m/config.pbtxt" in tree.files]  # fmt: skip
    fixed = 0
    for number in range(150):
        text = pairs[number % len(pairs)]
        assert isinstance(text, str)
        config = tmp_path / f"{number}.pbtxt"
        slip = text.replace("max_batch_size", "max_batch_sze", 1)
        config.write_bytes(mutated_text(slip, rng) if number % 2 else slip.encode())
        for mend in mended([config], LintOptions()):
            fixed += 1
            parsed = parse_config(mend.after)
            assert parsed.message is not None
            assert list(parsed.comments.values()) == list(parse_config(mend.before).comments.values())
    assert fixed > 20, "hardly any of the texts is fixed"


@pytest.fixture
def misspelt(tmp_path: Path) -> Path:
    return onnx_model(tmp_path / "repository", 'name: "detecter"  # ours\n' + ONNX + TENSORS)


def test_fix_writes_the_file_and_keeps_its_mode(misspelt: Path) -> None:
    misspelt.chmod(0o640)
    done = run(misspelt.parents[1], "--fix")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Fixed 1, 0 left\n1 model: 0 errors, 0 warnings\n"
    assert misspelt.read_text() == 'name: "detector"  # ours\n' + ONNX + TENSORS
    assert misspelt.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in misspelt.parent.iterdir()) == ["1", "config.pbtxt"]


def test_diff_writes_nothing_and_patch_takes_it(misspelt: Path) -> None:
    before = misspelt.read_bytes()
    done = run(misspelt, "--fix", "--diff")
    assert done.returncode == 4 and done.stderr == "Would fix 1, 0 left\n"
    assert '-name: "detecter"  # ours\n+name: "detector"  # ours\n' in done.stdout
    assert misspelt.read_bytes() == before
    patched = subprocess.run(
        ["patch", "-p0", str(misspelt)], input=done.stdout, text=True, capture_output=True
    )
    assert patched.returncode == 0 and run(misspelt, "--diff").stdout.strip() == ""


def test_a_diff_keeps_line_ends_and_shows_what_cannot_be_printed(tmp_path: Path) -> None:
    config = onnx_model(tmp_path, f'name: "detecter" # \x1b[2J\n{ONNX}{TENSORS}'.replace("\n", "\r\n"))
    text, found = differences([config], LintOptions())
    assert '+name: "detector" # \\x1b[2J\r\n' in text and "\x1b" not in text
    assert [f.rule for f in found.findings] == ["REPO002"]


def test_what_may_not_be_written_is_left_and_said(misspelt: Path, tmp_path: Path) -> None:
    before = misspelt.read_bytes()
    misspelt.chmod(0o444)
    done = run(misspelt, "--fix", "--format", "json")
    assert done.returncode == 1 and "is read-only" in done.stderr
    told = json.loads(done.stdout)
    assert (told["fixed"], told["errors"], told["failures"][0]["code"]) == (0, 1, "not_fixed")
    assert misspelt.read_bytes() == before


@pytest.mark.parametrize("linked", ["config.pbtxt", "detector"])
def test_no_link_is_written_through(misspelt: Path, tmp_path: Path, linked: str) -> None:
    repository = misspelt.parents[1]
    here = misspelt if linked == "config.pbtxt" else misspelt.parent
    elsewhere = tmp_path / "elsewhere"
    here.rename(elsewhere)
    here.symlink_to(elsewhere)
    before = misspelt.read_bytes()
    (mend,) = mended([repository], LintOptions())
    with pytest.raises(ConfigError, match="reached through a link"):
        write(mend)
    assert here.is_symlink() and misspelt.read_bytes() == before
    (mend,) = mended([misspelt], LintOptions())
    with pytest.raises(ConfigError, match="reached through a link"):
        write(mend)


def test_a_repository_that_is_itself_reached_through_a_link_is_written(
    misspelt: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(misspelt.parents[1])
    (mend,) = mended([tmp_path / "link"], LintOptions())
    write(mend)
    assert b'"detector"' in misspelt.read_bytes()


def test_a_file_that_changed_since_it_was_read_is_left(misspelt: Path) -> None:
    (mend,) = mended([misspelt], LintOptions())
    misspelt.write_text("somebody else's")
    with pytest.raises(ConfigError, match="was changed while it was checked"):
        write(mend)
    assert misspelt.read_text() == "somebody else's"
    assert sorted(p.name for p in misspelt.parent.iterdir()) == ["1", "config.pbtxt"]
    misspelt.unlink()
    with pytest.raises(ConfigError, match="cannot be written"):
        write(mend)


def test_only_selected_rules_are_fixed_and_ignored_lines_stay(misspelt: Path) -> None:
    assert after(misspelt.parent, LintOptions(select=frozenset({"IO"}))) is None
    misspelt.write_text('name: "detecter"  # tritonsmith: ignore=REPO002\n' + ONNX + TENSORS)
    assert after(misspelt.parent) is None


def test_an_edit_that_makes_new_errors_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "detector" / "1").mkdir(parents=True)
    (tmp_path / "detector" / "1" / "model.onnx").write_bytes(
        onnx_bytes({"x": ("FLOAT", ("batch", 4))}, {"y": ("FLOAT", ("batch", 4))})
    )
    warm = "value { data_type: TYPE_FP32 dims: [ 1, 4 ] zero_data: true }"
    text = ONNX + TENSORS.replace("[ 4 ]", "[ -1, 4 ]", 1)
    text += f'model_warmup {{ name: "w" batch_size: 1 inputs {{ key: "x" {warm} }} }}\n'
    (tmp_path / "detector" / "config.pbtxt").write_text(text)
    assert [f.rule for f in check([tmp_path])] == ["IO015"]
    assert after(tmp_path) is None


def test_one_long_line_is_fixed_in_place(tmp_path: Path) -> None:
    many = " ".join(f'parameters {{ key: "k{n}" value {{ string_value: "é{n}" }} }}' for n in range(250))
    text = f"{(ONNX + TENSORS)}{many}".replace("\n", " ")
    config = onnx_model(tmp_path, text.replace("TYPE_FP32", "TYPE_FP32", 1) + ' nme: "detector"')
    assert len(text) > 10_000
    write_all(config)
    assert config.read_text() == text + ' name: "detector"'


def test_a_lone_file_and_a_python_model_are_fixed_too(tmp_path: Path) -> None:
    lone = tmp_path / "config.pbtxt"
    lone.write_text('bakend: "python"\n' + TENSORS)
    write_all(lone)
    assert lone.read_text() == 'backend: "python"\n' + TENSORS
    model = tmp_path / "repository" / "m"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(MODEL_PY)
    batching = "dynamic_batching { preserve_ordering: TRUE }"
    (model / "config.pbtxt").write_text(f'backend: "python"\nmax_batch_size: 8\n{TENSORS}{batching}')
    write_all(model)
    assert (model / "config.pbtxt").read_text().endswith("dynamic_batching { preserve_ordering: true }")


def test_several_files_of_one_repository_are_each_judged_once(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    paths = [onnx_model(root, f'name: "odd"\n{ONNX}{TENSORS}', name) for name in ("a", "b")]
    done = run(*paths, root, "--statistics")
    assert done.returncode == 4
    assert done.stdout.splitlines() == [
        "2  REPO002  [*]  error  `name` differs from the model directory's name",
        "2 models: 2 errors, 0 warnings",
        "[*] 2 fixable with --fix",
    ]
    told = json.loads(run(*paths, "--statistics", "--format", "json").stdout)
    assert told["statistics"][0]["count"] == told["statistics"][0]["fixable"] == 2 and "findings" not in told
    assert run(*paths, "--statistics", "--format", "sarif").returncode == 2
    write_all(*paths, root)
    assert check([root]) == []
