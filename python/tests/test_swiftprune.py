"""The package as people use it, on the smallest fixtures; what the program itself tests is not tested again."""

import ast
import inspect
import json
import numbers
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import swiftprune
from processes import openmps
from swiftprune import commands

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "model"
PROGRAM = [sys.executable, "-m", "swiftprune"]


@pytest.fixture
def dense():
    return DATA / "llama2"


@pytest.fixture
def text(tmp_path):
    """Token ids of the fixture's vocabulary of 64."""
    file = tmp_path / "text.u16"
    file.write_bytes(struct.pack("<2000H", *[(i * i + 7 * i) % 61 for i in range(2000)]))
    return file


@pytest.fixture
def speaking(tmp_path, dense):
    """The fixture with a tokenizer of words and a chat template."""
    folder = tmp_path / "speaking"
    shutil.copytree(dense, folder)
    words = ["<s>", "</s>", "<unk>"] + [f"w{i}" for i in range(3, 64)]
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i in range(2)],
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<s>", "eos_token": "</s>",
        "chat_template": "{% for m in messages %}w5 {{ m.content }} {% endfor %}w6"}))
    return folder


def run_program(*arguments):
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_version_is_the_programs():
    assert run_program("--version").stdout.startswith(f"swiftprune {swiftprune.__version__} ")
    assert swiftprune.version_text().startswith("swiftprune")


def test_one_openmp():
    assert len(openmps("import swiftprune")) == 1


def test_waiting_threads_spin_by_who_holds_the_cores():
    from swiftprune.waiting import is_busy

    assert not is_busy("0.37 2.13 2.39 1/92 9011", 2)
    assert is_busy("0.37 2.13 2.39 3/92 9011", 2)
    for text in ("", "1 2", "1 2 3", "1 2 3 x/9", "1 2 3 99"):
        assert not is_busy(text, 2)
    for given in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}):
        environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        shown = subprocess.run([sys.executable, "-c", "import swiftprune, os; print(os.environ.get('GOMP_SPINCOUNT'))"],
                               env={**environment, **given}, capture_output=True, text=True, check=True).stdout
        assert shown.strip() == given.get("GOMP_SPINCOUNT", "None")


def test_results_are_the_programs_bytes(tmp_path, dense, text):
    record = swiftprune.prune(dense, tmp_path / "a", sparsity=0.5, calibration=text, windows=4, seqlen=32,
                              override=[("*.down_proj.weight", "sparsity=0.25")])
    arguments = ["prune", dense, "-o", tmp_path / "b", "--sparsity", "0.5", "--calibration", text, "--windows", "4",
                 "--seqlen", "32", "--override", "*.down_proj.weight", "sparsity=0.25"]
    finished = run_program(*arguments, "--json")
    assert finished.returncode == 0, finished.stderr
    for name in ("model.safetensors", "plan.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    program = json.loads(finished.stdout)
    assert record["tensors"] == program["tensors"]
    # A record is repeated on the command line, so it does not tell that Python asked.
    command = json.loads((tmp_path / "a" / "swiftprune.json").read_text())["command"]["arguments"]
    assert command[:2] == ["swiftprune", "prune"] and "--json" not in command and "--quiet" not in command

    evaluation = swiftprune.evaluate(tmp_path / "a", text=text, seqlen=32)
    finished = run_program("eval", tmp_path / "b", "--text", text, "--seqlen", "32", "--json")
    assert evaluation["perplexity"] == json.loads(finished.stdout)["perplexity"]


@pytest.mark.parametrize("options", [
    {"units": "mlp", "align": 4},
    {"units": "mlp,heads,layers", "align": 4, "compensate": "aligned"},
    {"units": "experts", "no_keep_super": True, "rounds": 2},
])
def test_shrunk_folders_are_the_programs_bytes(tmp_path, dense, text, options):
    model = DATA.parent / "experts" / "qwen3_moe_fused" if options["units"] == "experts" else dense
    record = swiftprune.shrink(model, tmp_path / "a", ratio=0.25, calibration=text, windows=2, seqlen=32, **options)
    arguments = ["shrink", model, "-o", tmp_path / "b", "--ratio", "0.25", "--calibration", text, "--windows", "2",
                 "--seqlen", "32"]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
    finished = run_program(*arguments, "--json")
    assert finished.returncode == 0, finished.stderr
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    program = json.loads(finished.stdout)
    assert record["parameters"] == program["parameters"]
    assert record["parameters"]["shrunk"] < record["parameters"]["dense"]
    assert record["command"]["arguments"][:2] == ["swiftprune", "shrink"]


def test_shrink_refuses_with_the_programs_message(tmp_path, dense):
    for options, message in [({}, "--ratio, --target-params, --target-ms: found 0 of them, expected one"),
                             ({"ratio": 0.2, "rounds": 2}, "--rounds: found it with --units mlp"),
                             ({"ratio": 0.2, "units": "experts", "align": 4}, "--align: found it with --units experts"),
                             ({"ratio": 1.5}, "--ratio: found 1.5"),
                             ({"ratio": 0.2, "layers_by": "luck"}, "luck")]:
        with pytest.raises(swiftprune.UsageError, match=message):
            swiftprune.shrink(dense, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_other_commands(tmp_path, dense, text):
    pruned, packed = tmp_path / "pruned", tmp_path / "packed"
    swiftprune.prune(dense, pruned, method="magnitude", pattern="2:4")
    assert swiftprune.verify(dense, pruned)["passed"] is True
    swiftprune.pack(pruned, packed)
    swiftprune.unpack(packed, tmp_path / "dense")
    assert swiftprune.inspect(packed)
    assert swiftprune.compare(dense, [pruned, packed], text=text, seqlen=32)["models"]
    swiftprune.shrink(dense, tmp_path / "small", ratio=0.2, calibration=text, windows=2, seqlen=32)
    swiftprune.quantize(dense, tmp_path / "int8", quantize="int8", group="row", method="rtn")
    swiftprune.export(dense, tmp_path / "model.gguf", name="tiny") if (dense / "tokenizer.json").exists() else None
    assert swiftprune.methods()["methods"]
    assert swiftprune.bench(dense, prompt_tokens=16, decode_tokens=4, rounds=1)


def test_errors_have_the_programs_message(tmp_path, dense):
    arguments = {"sparsity": 0.6, "pattern": "2:4", "method": "magnitude"}
    with pytest.raises(ValueError) as raised:
        swiftprune.prune(dense, tmp_path / "out", **arguments)
    assert isinstance(raised.value, swiftprune.UsageError)
    finished = run_program("prune", dense, "-o", tmp_path / "out", "--sparsity", "0.6", "--pattern", "2:4",
                           "--method", "magnitude")
    assert finished.stderr.strip() == f"swiftprune: {raised.value}"
    assert finished.returncode == 2

    with pytest.raises(swiftprune.InputError, match="hf download Org/Model"):
        swiftprune.inspect("Org/Model")
    with pytest.raises(swiftprune.InputError, match="hf download Org/Model"):
        swiftprune.load("Org/Model")
    with pytest.raises(swiftprune.UsageError, match="model: found 5, expected a str or a path"):
        swiftprune.inspect(5)
    with pytest.raises(TypeError, match="did you mean sparsity"):
        swiftprune.prune(dense, tmp_path / "out", sparcity=0.5)
    for wrong in ({"sparsity": "much"}, {"sparsity": [0.1, 0.2]}, {"sparsity": {}}, {"resume": 1},
                  {"compute": "f64"}, {"override": ["a"]}, {"threads": 0.5}, {"progress": 3}, {"method": b"best"}):
        with pytest.raises(ValueError):
            swiftprune.prune(dense, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@numbers.Integral.register
class Int64:
    """As NumPy's: a whole number that is no int."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    __int__ = __index__

    def __str__(self):
        return str(self.value)

    def __le__(self, other):
        return self.value <= other

    def __ge__(self, other):
        return self.value >= other


def test_numbers_may_be_numpys(tmp_path, dense, text, speaking):
    record = swiftprune.prune(dense, tmp_path / "out", calibration=text, windows=Int64(2), seqlen=Int64(32))
    assert record["calibration"]["windows"] == 2
    assert swiftprune.load(speaking, device="cpu").generate("w7", max_tokens=Int64(3)).num_tokens <= 3
    with pytest.raises(swiftprune.UsageError, match="max_tokens: found 0, expected 1 to"):
        swiftprune.load(speaking, device="cpu").generate("w7", max_tokens=Int64(0))


def test_a_failed_gate_has_a_result(tmp_path, dense, text):
    swiftprune.prune(dense, tmp_path / "out", method="magnitude", sparsity=0.9)
    with pytest.raises(swiftprune.GateError) as raised:
        swiftprune.compare(dense, tmp_path / "out", text=text, seqlen=32, max_kl=1e-6)
    assert raised.value.result["models"]


def test_results_show_themselves_in_a_notebook(tmp_path, dense, text):
    swiftprune.prune(dense, tmp_path / "out", method="magnitude", sparsity=0.5)
    evaluation = swiftprune.evaluate(tmp_path / "out", text=text, seqlen=32)
    assert isinstance(evaluation, dict) and evaluation.page is None
    assert json.loads(json.dumps(evaluation)) == evaluation
    html = evaluation._repr_html_()
    assert evaluation["texts"][0]["ids"] not in html  # a hash widens the table
    doctor = swiftprune.doctor()
    assert f"<th>library</th><td>version {doctor['library']['version']}, file {doctor['library']['file']}</td>" in doctor._repr_html_()
    assert f"<th>perplexity</th><td>{evaluation['perplexity']:.6g}</td>" in html and "<h4>texts</h4>" in html

    report = tmp_path / "report.html"
    comparison = swiftprune.compare(dense, tmp_path / "out", text=text, seqlen=32, report=report)
    assert comparison.page == report.read_text(encoding="utf-8")
    shown = comparison._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "&lt;!doctype html" in shown.lower()
    # Without --report there is a page all the same, and the document does not differ.
    again = swiftprune.compare(dense, tmp_path / "out", text=text, seqlen=32)
    assert again.page and again["models"][1]["divergence"] == comparison["models"][1]["divergence"]
    with pytest.raises(swiftprune.GateError) as raised:
        swiftprune.compare(dense, tmp_path / "out", text=text, seqlen=32, max_kl=1e-9)
    assert "max-kl" in raised.value.result.page

    tuned = swiftprune.tune(dense, tmp_path / "tuned", text=text, sparsity=0.5, windows=2, search_windows=2, trials=2,
                            seqlen=32)
    assert tuned.page == (tmp_path / "tuned" / "tune.html").read_text(encoding="utf-8")


def test_notes_are_warnings(tmp_path, dense):
    swiftprune.prune(dense, tmp_path / "half", method="magnitude", sparsity=0.5)
    with pytest.warns(swiftprune.Note, match="zeros already"):
        swiftprune.prune(tmp_path / "half", tmp_path / "again", method="magnitude", sparsity=0.3)


def test_progress_is_told_and_stops_the_work(tmp_path, dense, text, capfd):
    steps = []
    swiftprune.prune(dense, tmp_path / "a", calibration=text, windows=8, seqlen=32, method="best",
                     progress=lambda *step: steps.append(step))
    assert steps and all(isinstance(stage, str) and 0 <= done for stage, done, _ in steps)
    swiftprune.prune(dense, tmp_path / "b", method="magnitude", progress=True)
    out, _ = capfd.readouterr()
    assert out == ""

    def fail(*_):
        raise RuntimeError("enough")

    before = sorted(os.listdir(tmp_path))
    with pytest.raises(RuntimeError, match="enough"):
        swiftprune.pilot(dense, text, minutes=1, calibration_tokens=64, evaluation_tokens=64, progress=fail)
    assert sorted(os.listdir(tmp_path)) == before


def test_ctrl_c_cleans_up(tmp_path, dense, text):
    """In a process of its own: the signal comes from outside, while the work is under way."""
    script = (
        "import signal, swiftprune, sys\n"
        "def told(stage, done, total):\n"
        "    print('at work', flush=True)\n"
        "try:\n"
        f"    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it\n"
        f"    while True: swiftprune.evaluate({str(dense)!r}, text=[{str(text)!r}] * 200, seqlen=8, progress=told)\n"
        "except KeyboardInterrupt as interrupt:\n"
        "    print('stopped:', interrupt)\n")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped:" in out


def test_threads_work_apart_and_without_the_gil(tmp_path, dense, text):
    counted, ended = [0], threading.Event()

    def count():
        while not ended.is_set():
            counted[0] += 1

    def prune(name):
        swiftprune.prune(dense, tmp_path / name, calibration=text, windows=8, seqlen=32, threads=1)

    counter = threading.Thread(target=count)
    workers = [threading.Thread(target=prune, args=(name,)) for name in ("a", "b")]
    counter.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ended.set()
    counter.join()
    assert counted[0] > 1000
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_model_writes(speaking):
    model = swiftprune.load(speaking, compute="f32")
    assert (model.name, model.device, model.max_positions) == ("speaking", "cpu", 64)
    assert model.encode("w7 w8") == [7, 8] and model.decode([7, 8]) == "w7 w8"
    told = []
    generation = model.generate("w7 w8", max_tokens=9, on_text=told.append)
    finished = run_program("generate", speaking, "--prompt", "w7 w8", "--max-tokens", "9", "--json")
    program = json.loads(finished.stdout)
    assert (str(generation), generation.stop) == (program["text"], program["stop"])
    assert generation.num_tokens == program["tokens"] and generation.prompt_tokens == 2
    assert "".join(told) == generation.text
    assert "".join(model.stream("w7 w8", max_tokens=9)) == generation.text

    drawn = [model.generate("w7", max_tokens=12, temperature=1.0, seed=seed).text for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1

    first = model.stream("w7", max_tokens=12)
    model.generate("w8", max_tokens=1)
    with pytest.raises(swiftprune.UsageError, match="began another"):
        list(first)


def test_what_is_no_text_is_a_value_error(speaking):
    model = swiftprune.load(speaking, compute="f32")
    half = "a\ud800b"  # as os.fsdecode() makes of a file's name that is not UTF-8
    for wrong in (lambda: swiftprune.inspect(half), lambda: swiftprune.load(half),
                  lambda: swiftprune.load(speaking, device=None), lambda: model.encode(None),
                  lambda: model.encode(half), lambda: model.generate(half)):
        with pytest.raises(ValueError, match="expected text"):
            wrong()
    with pytest.raises(ValueError, match="max_token: found no such option, expected one of max_tokens"):
        model.generate("w7", max_token=2)


def test_a_model_answers(speaking, dense):
    model = swiftprune.load(str(speaking), device="cpu", compute="f32")
    assert model.can_chat
    answer = model.generate([{"role": "user", "content": "w9"}], max_tokens=5)
    assert answer.prompt_tokens == 3  # w5 w9 w6
    assert answer.text == model.generate("w5 w9 w6", max_tokens=5).text
    for wrong in ([{"role": "user"}, 3], 5, [{"content": {1}}]):
        with pytest.raises(ValueError):
            model.generate(wrong)
    for options in ({"max_tokens": 0}, {"max_tokens": 1000}, {"temperature": -1}, {"temperature": "hot"},
                    {"top_p": 0}, {"tools": []}):
        with pytest.raises(ValueError):
            model.generate("w9", **options)
    with pytest.raises(ValueError):
        model.decode([64])
    for wrong in (["a"], 5, [1.5]):
        with pytest.raises(swiftprune.UsageError, match="ids: expected ints"):
            model.decode(wrong)
    with pytest.raises(swiftprune.UsageError, match="compute"):
        swiftprune.load(speaking, compute="f64")
    with pytest.raises(swiftprune.InputError, match="tokenizer"):
        swiftprune.load(dense)


def python_blocks(page):
    """The code that a page shows in Python."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def readers_folder(tmp_path, monkeypatch):
    """Models and texts under the names that the pages use, the hub's cache among them."""
    snapshot = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M" / "snapshots" / "1"
    shutil.copytree(ROOT / "tests" / "data" / "evaluation" / "model", snapshot)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (snapshot / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(snapshot, tmp_path / "dense")
    for name in ("my_text", "other_text", "held_out"):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"The {i * i % 97}th word is not the last one." for i in range(3000)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/howto/ci.md"])
def test_what_the_pages_show_runs(readers_folder, page, capsys):
    if page == "docs/howto/ci.md":
        swiftprune.prune("dense", "pruned", method="magnitude", sparsity=0.9)
    names = {}
    for block in python_blocks(page):
        if "transformers" not in block:  # test_transformers.py
            exec(compile(block, page, "exec"), names)  # each goes on with the names of the one before


def test_stubs_have_every_parameter():
    stubs = Path(commands.__file__).with_suffix(".pyi")
    functions = {node.name: node for node in ast.parse(stubs.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert set(functions) == {commands.NAMES.get(c["name"], c["name"]) for c in commands.TABLE}
    for name, node in functions.items():
        function = getattr(swiftprune, name)
        assert function.__doc__ and "Raises" in function.__doc__
        parameters = [argument.arg for argument in node.args.args + node.args.kwonlyargs]
        assert parameters == list(inspect.signature(function).parameters)


def test_nothing_is_warned_of_at_import():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        subprocess.run([sys.executable, "-W", "error", "-c", "import swiftprune"], check=True)
