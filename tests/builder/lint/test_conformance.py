"""The linter against the server: every rule's bad and good tree is loaded by the embedded tritonserver.

The server runs with explicit model control and without completing configs, so that it judges what is written.
What it cannot judge stands in a table with the reason; whoever mends one of these reasons removes its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import pytest

from tests.builder.lint.fixtures import Tree, fixtures, tree
from tritonsmith.builder.base.errors import ServerError, TritonsmithError
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.lint.fix import mended, write
from tritonsmith.builder.lint.table import RULES
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import launch
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.spec import ServerSpec

pytestmark = [pytest.mark.server, pytest.mark.slow]

Outcome = Literal["loaded", "poll", "load"]

TENSORRT = "the embedded server has no TensorRT backend"
PYTORCH = "the embedded server has no PyTorch backend"
GPU = "no GPU here, and the tree asks for one"

NOT_JUDGED: dict[str, str] = {
    "REPO006": "the python backend leaves the load call unanswered",
    "REPO008": "the config stands alone: there is no directory to load",
    "REPO009": "needs two repositories",
    "REPO015": "is about clients, and the oracle loads over HTTP itself",
    "BACK008": "the python backend may leave the load call unanswered, and its shell runs what it reads",
    "BACK004": "is about an image, not about a model",
    "WARM008": "2.51 may end with a segmentation fault",
    "CACHE004": GPU,
    **dict.fromkeys(("OPT001", "OPT007"), "accelerators of a GPU are read on a GPU alone"),
    **dict.fromkeys(("IO020", "INST016"), PYTORCH),
    **dict.fromkeys(
        (
            *("BATCH014", "IO018", "IO019", "IO021", "IO022", "INST008", "INST011", "INST012", "WARM010"),
            *("OPT002", "OPT004", "OPT005", "TRT001", "TRT002", "TRT003", "TRT004", "TRT005"),
        ),
        TENSORRT,
    ),
    **{
        rule_id: "is judged by what vllm_backend and TensorRT-LLM are written to do: no engine is here"
        for rule_id in RULES
        if rule_id.startswith(("VLLM", "TRTLLM"))
    },
    "ONNX001": "needs an old release's ONNX Runtime; the embedded one is this environment's",
}
GOOD_NOT_JUDGED: dict[str, str] = {
    "REPO010": "the embedded server has no repository agents",
    "BACK006": "the archive holds no real environment",
    "INST004": GPU,
    "INST005": GPU,
    "MET001": "2.51 does not know model_metrics",
    "OPT006": GPU,
}
FLAGS: dict[str, tuple[str, ...]] = {
    "INST013": ("--rate-limit=execution_count",),
    "INST014": ("--rate-limit=execution_count", "--rate-limit-resource=R:2"),
}
"""Rules that a server with further flags judges; they run last."""


class Oracle:
    """One live server at a time, started again when it ended or when other flags are wanted.

    Models get names of their own, so that none has to wait until another is unloaded.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        self.unloading = ThreadPoolExecutor(8)
        self.flags: tuple[str, ...] | None = None
        self.stack = ExitStack()
        self.server: Server | None = None

    def started(self, flags: tuple[str, ...]) -> Server:
        if self.server is None or self.flags != flags:
            self.stop()
            arguments = ("--disable-auto-complete-config", *flags)
            spec = ServerSpec(repositories=(self.root,), model_control="explicit", extra_args=arguments)
            self.server, self.flags = self.stack.enter_context(launch(spec)), flags
        return self.server

    def stop(self) -> None:
        self.server = None
        with suppress(TritonsmithError):
            self.stack.close()

    def outcome(self, tree: Tree, flags: tuple[str, ...]) -> tuple[Outcome, str]:
        """What the server does with the tree; a server that ended under it is asked once more."""
        try:
            return self._load(tree, flags)
        except ServerError:
            self.stop()
            return self._load(tree, flags)

    def _load(self, tree: Tree, flags: tuple[str, ...]) -> tuple[Outcome, str]:
        self.count += 1
        names = sorted({path.split("/")[1] for path in tree.files if path.startswith("repository/")})
        renamed = _renamed(tree, {name: f"{name}{self.count}" for name in names})
        renamed.write(self.root.parent)
        server = self.started(flags)
        loads = f"{'pipeline' if 'pipeline' in names else names[0]}{self.count}"
        try:
            control.load_model(server.http_url, loads, timeout_s=60)
            return "loaded", ""
        except ServerError:
            raise
        except TritonsmithError as refusal:
            return ("poll" if "failed to poll" in refusal.message else "load"), refusal.message
        finally:
            for name in names:
                self.unloading.submit(control.unload_model, server.http_url, f"{name}{self.count}")


def _renamed(tree: Tree, names: dict[str, str]) -> Tree:
    """The tree with other model names, in its paths and in its configs."""
    files: dict[str, str | bytes] = {}
    for path, content in tree.files.items():
        parts = path.split("/")
        if parts[0] == "repository":
            parts[1] = names[parts[1]]
        if isinstance(content, str):
            for old, new in names.items():
                content = content.replace(f'"{old}"', f'"{new}"')
        files["/".join(parts)] = content
    return Tree(files, tree.paths, tree.options)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    root = tmp_path_factory.mktemp("oracle") / "repository"
    root.mkdir()
    live = Oracle(root)
    yield live
    live.unloading.shutdown()
    live.stop()


def foreseen(tree: Tree, root: Path) -> bool:
    """Whether the linter says that the server refuses the tree."""
    return any(f.severity == "error" and f.stage != "silent" for f in check(tree.write(root), tree.options))


IN_ORDER = sorted((r for r in RULES if r not in NOT_JUDGED), key=lambda rule_id: FLAGS.get(rule_id, ()))


@pytest.mark.parametrize("rule_id", IN_ORDER)
def test_server_does_what_the_rule_says(rule_id: str, oracle: Oracle, tmp_path: Path) -> None:
    pair, flags = fixtures()[rule_id], FLAGS.get(rule_id, ())
    wanted = "loaded" if RULES[rule_id].stage == "silent" else RULES[rule_id].stage
    done, why = oracle.outcome(pair.bad, flags)
    assert done == wanted, why
    assert foreseen(pair.bad, tmp_path / "bad") == (done != "loaded")
    if rule_id not in GOOD_NOT_JUDGED:
        done, why = oracle.outcome(pair.good, flags)
        assert done == "loaded", why
        assert not foreseen(pair.good, tmp_path / "good")


PLAIN = tree("").files["repository/m/config.pbtxt"]
assert isinstance(PLAIN, str)


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{PLAIN}",
        PLAIN.replace("batch_size: 8", "batch_size = 8.0"),
        PLAIN.replace("TYPE_FP32", "type_fp32", 1).replace('"python"', "python"),
        PLAIN + "dynamic_batching { preserve_ordring: TRUE }\n",
    ],
    ids=["byte order mark", "numbers", "words", "misspelt"],
)
def test_server_refuses_what_fix_mends_and_loads_what_it_writes(
    text: str, oracle: Oracle, tmp_path: Path
) -> None:
    files = dict(tree("").files)
    assert oracle.outcome(Tree(files | {"repository/m/config.pbtxt": text}), ())[0] == "poll"
    (path,) = Tree(files | {"repository/m/config.pbtxt": text}).write(tmp_path)
    for mend in mended([path], LintOptions()):
        write(mend)
    written = (path / "m" / "config.pbtxt").read_text()
    done, why = oracle.outcome(Tree(files | {"repository/m/config.pbtxt": written}), ())
    assert done == "loaded", why


def test_tables_name_rules_that_exist() -> None:
    assert not (NOT_JUDGED.keys() | GOOD_NOT_JUDGED.keys() | FLAGS.keys()) - RULES.keys()
    assert not NOT_JUDGED.keys() & (GOOD_NOT_JUDGED.keys() | FLAGS.keys())
