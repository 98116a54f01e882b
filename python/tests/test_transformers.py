"""Packed folders inside transformers: the same numbers as the folder that `unpack` makes, by torch's own products."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import swiftprune  # noqa: E402
from processes import openmps  # noqa: E402

KINDS = {
    "bitmap": {"prune": {"sparsity": 0.5}},
    "2:4": {"prune": {"pattern": "2:4"}},
    "dense": {"prune": {"sparsity": 0.0}},
    "int8": {"prune": {"sparsity": 0.5}, "pack": {"quantize": "int8"}},
    "tables": {"prune": {"sparsity": 0.5}, "pack": {"quantize_embeddings": "int8"}},
    "int4": {"quantize": {"quantize": "int4", "group": "32"}},
    "int3": {"quantize": {"quantize": "int3", "group": "32", "asymmetric": True}},
    "sparse int4": {"prune": {"method": "best", "refine": "rtn", "sparsity": 0.5, "quantize": "int4", "group": "32"}},
}


def save(folder, config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "norm" in name else 0.3))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def llama(**changes):
    return transformers.LlamaConfig(**{
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False, **changes})


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save(tmp_path_factory.mktemp("dense") / "llama", llama())


def pack(dense, folder, kind):
    settings = KINDS[kind]
    packed = folder / "packed"
    if "quantize" in settings:
        swiftprune.quantize(dense, packed, method="rtn", **settings["quantize"])
        return packed
    options = {"method": "magnitude", **settings["prune"]}
    if "quantize" in options:
        text = folder / "text.u16"
        text.write_bytes(bytes(b for i in range(400) for b in ((i * i + 7 * i) % 90, 0)))
        swiftprune.prune(dense, packed, calibration=text, windows=2, seqlen=64, allocate="none", **options)
        return packed
    swiftprune.prune(dense, folder / "pruned", **options)
    swiftprune.pack(folder / "pruned", packed, **settings.get("pack", {}))
    return packed


def reference(packed, folder):
    swiftprune.unpack(packed, folder / "unpacked")
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "unpacked").float()


IDS = torch.tensor([[1, 5, 9, 80, 17, 3, 44], [2, 90, 31, 8, 8, 60, 95]])


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_unpacked_folder(dense, tmp_path, kind):
    packed = pack(dense, tmp_path, kind)
    expected = reference(packed, tmp_path)
    model = swiftprune.to_transformers(packed, compute="f32")
    assert type(model) is type(expected) and not model.training
    modules = dict(model.named_modules())
    linear = modules["model.layers.1.mlp.down_proj"]
    assert type(linear).__name__ == "PackedLinear" and (linear.in_features, linear.out_features) == (160, 64)
    assert json.loads((packed / "config.json").read_text())["num_hidden_layers"] == 2
    with torch.no_grad():
        # `unpack` rounds int8 to the dense model's bf16; codes of few bits meet x of a few tokens in 16 bits.
        tolerance = {"bitmap": 1e-5, "2:4": 1e-5, "dense": 1e-5, "int8": 2e-2}.get(kind, 2e-3)
        for ids in (IDS[:1, :1], IDS, IDS.repeat(4, 2)):  # one token, a few, many
            want, got = expected(ids).logits, model(ids).logits
            assert got.dtype == torch.float32
            assert (got - want).abs().max() <= tolerance * want.abs().max(), kind
        if kind != "int8":
            tokens = model.generate(IDS[:1], max_new_tokens=12, do_sample=False)
            assert torch.equal(tokens, expected.generate(IDS[:1], max_new_tokens=12, do_sample=False))


@pytest.mark.parametrize("first", ["import swiftprune, torch", "import torch, swiftprune"])
def test_torch_and_we_share_one_openmp(first):
    if not (Path(torch.__file__).parent / "lib" / "libgomp.so.1").exists():
        pytest.skip("torch calls its OpenMP otherwise")
    assert len(openmps(first)) == 1


def test_transformers_itself_refuses_a_packed_folder(dense, tmp_path):
    packed = pack(dense, tmp_path, "bitmap")
    with pytest.raises(ValueError, match="swiftprune_packed"):
        transformers.AutoModelForCausalLM.from_pretrained(packed)
    # As an earlier version wrote it.
    config = json.loads((packed / "config.json").read_text())
    config["model_type"] = config.pop("packed_model_type")
    expected = swiftprune.to_transformers(packed)(IDS).logits
    (packed / "config.json").write_text(json.dumps(config))
    assert torch.equal(swiftprune.to_transformers(packed)(IDS).logits, expected)


def test_memory_is_the_files(dense, tmp_path):
    packed = pack(dense, tmp_path, "bitmap")
    model = swiftprune.to_transformers(packed)
    address = model.get_submodule("model.layers.0.mlp.up_proj").weight.packed.data_ptr()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= address < end:
                assert line.rstrip().endswith(str(packed / "model.safetensors"))
                return
    raise AssertionError("found the packed bytes in no mapping")


def test_16_bits(dense, tmp_path):
    packed = pack(dense, tmp_path, "bitmap")
    expected = reference(packed, tmp_path)
    for dtype, tolerance in ((torch.bfloat16, 0.04), ("float16", 0.01)):
        model = swiftprune.to_transformers(packed, dtype=dtype)
        with torch.no_grad():
            got, want = model(IDS).logits, expected(IDS).logits
        assert got.dtype == (dtype if isinstance(dtype, torch.dtype) else torch.float16)
        assert (got.float() - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(dense, tmp_path, kind):
    packed = pack(dense, tmp_path, kind)
    expected = reference(packed, tmp_path)
    for dtype, tolerance in (("float32", 0.04), ("bfloat16", 0.06), ("float16", 0.04)):
        model = swiftprune.to_transformers(packed, dtype=dtype).to("cuda")
        assert model.device.type == "cuda"
        assert model.get_submodule("model.layers.0.mlp.up_proj").weight.packed.device.type == "cpu"
        with torch.no_grad():
            for ids in (IDS[:1, :1], IDS, IDS.repeat(4, 2)):
                got, want = model(ids.cuda()).logits, expected(ids).logits
                assert got.device.type == "cuda" and got.dtype == getattr(torch, dtype)
                assert (got.float().cpu() - want).abs().max() <= tolerance * want.abs().max(), (kind, dtype)
    tokens = model.generate(IDS[:1].cuda(), max_new_tokens=12, do_sample=False)
    assert tokens.shape == (1, 19)
    # A derivative towards the inputs, on another stream.
    linear = model.get_submodule("model.layers.1.mlp.down_proj")
    x = torch.randn(3, 160, device="cuda", dtype=torch.float16, requires_grad=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        linear(x).float().sum().backward()
        torch.cuda.current_stream().synchronize()
    weights = expected.get_submodule("model.layers.1.mlp.down_proj").weight
    assert (x.grad.float().cpu() - weights.sum(0)).abs().max() <= 0.02 * weights.sum(0).abs().max()


def test_packed_bytes_stay_where_they_are(dense, tmp_path):
    model = swiftprune.to_transformers(pack(dense, tmp_path, "bitmap"))
    linear = model.get_submodule("model.layers.0.mlp.up_proj")
    address = linear.weight.packed.data_ptr()
    model.to(torch.bfloat16).to("cpu")
    assert linear.weight.packed.data_ptr() == address and linear.weight.packed.dtype == torch.uint8
    from swiftprune import torch_modules

    with pytest.raises(swiftprune.DeviceError, match="processor's memory"):
        torch_modules._parsed(linear.weight.packed.to("meta"))


@pytest.mark.parametrize("tables", ["none", "int8"])
def test_tied_tables(tmp_path, tables):
    dense = save(tmp_path / "dense", llama(tie_word_embeddings=True))
    swiftprune.pack(dense, tmp_path / "packed", quantize_embeddings=tables)
    expected = reference(tmp_path / "packed", tmp_path)
    model = swiftprune.to_transformers(tmp_path / "packed", compute="f32")
    with torch.no_grad():
        got, want = model(IDS).logits, expected(IDS).logits
    assert (got - want).abs().max() <= 2e-3 * want.abs().max()


def test_biases_and_transposed_weights(tmp_path):
    dense = save(tmp_path / "dense", transformers.GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4,
                                                             n_positions=64))
    swiftprune.pack(dense, tmp_path / "packed")
    expected = reference(tmp_path / "packed", tmp_path)
    model = swiftprune.to_transformers(tmp_path / "packed", compute="f32")
    with torch.no_grad():
        got, want = model(IDS).logits, expected(IDS).logits
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_copies_states_and_derivatives_are_torchs(dense, tmp_path):
    packed = pack(dense, tmp_path, "bitmap")
    model = swiftprune.to_transformers(packed, compute="f32")
    with torch.no_grad():
        want = model(IDS).logits
        assert torch.equal(copy.deepcopy(model)(IDS).logits, want)
        torch.save(model.state_dict(), tmp_path / "state.pt")
        # Another weight in the same memory is another weight.
        linear = copy.deepcopy(model.get_submodule("model.layers.0.mlp.up_proj"))
        x = torch.randn(3, 64)
        before = linear(x)
        other = model.get_submodule("model.layers.0.mlp.gate_proj").weight.packed
        if other.numel() == linear.weight.packed.numel():
            linear.weight.packed.copy_(other)
            assert not torch.allclose(linear(x), before)
    state = torch.load(tmp_path / "state.pt")
    assert "model.layers.0.mlp.up_proj.weight.packed" in state

    expected = reference(packed, tmp_path)
    for network in (model, expected):
        network.requires_grad_(False)
    x = torch.randn(2, 5, 64)
    gradients = []
    for network in (model, expected):
        own = x.clone().requires_grad_()
        network(inputs_embeds=own).logits.square().mean().backward()
        gradients.append(own.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * gradients[1].abs().max())


def test_the_operator_is_torchs(dense, tmp_path):
    model = swiftprune.to_transformers(pack(dense, tmp_path, "2:4"))
    linear = model.get_submodule("model.layers.0.self_attn.q_proj")
    x = torch.randn(3, 64, requires_grad=True)
    torch.library.opcheck(torch.ops.swiftprune.packed_linear.default,
                          (x, linear.weight.packed, None, 64, False),
                          test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_exported_it_is_one_node(dense, tmp_path):
    model = swiftprune.to_transformers(pack(dense, tmp_path, "2:4"))
    linear = model.get_submodule("model.layers.0.self_attn.q_proj")
    with torch.no_grad():
        exported = torch.export.export(linear, (torch.randn(3, 64),))
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert called == ["swiftprune.packed_linear.default"]


def test_bad_input(dense, tmp_path):
    with pytest.raises(swiftprune.InputError, match="swiftprune pack"):
        swiftprune.to_transformers(dense)
    with pytest.raises(swiftprune.InputError, match="hf download Org/Model"):
        swiftprune.to_transformers("Org/Model")
    packed = pack(dense, tmp_path, "bitmap")
    for wrong in ({"dtype": "int8"}, {"dtype": torch.int64}, {"compute": "f64"}):
        with pytest.raises(swiftprune.UsageError, match=next(iter(wrong))):
            swiftprune.to_transformers(packed, **wrong)
    with pytest.raises(swiftprune.UsageError, match="model"):
        swiftprune.to_transformers(5)
    model = swiftprune.to_transformers(packed)
    linear = model.get_submodule("model.layers.0.mlp.up_proj")
    with pytest.raises(swiftprune.InputError, match="63 inputs"):
        linear(torch.zeros(1, 63))
    with pytest.raises(swiftprune.InputError, match="expected float32"):
        linear(torch.zeros(1, 64, dtype=torch.float64))
    damaged = linear.weight.packed.clone()
    damaged[100] += 1
    with pytest.raises(swiftprune.InputError, match="checksum"):
        torch.ops.swiftprune.packed_linear(torch.zeros(1, 64), damaged, None, 160, False)


def test_experts_are_refused_by_name(tmp_path):
    config = transformers.Qwen3MoeConfig(
        vocab_size=96, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=64)
    dense = save(tmp_path / "dense", config)
    swiftprune.pack(dense, tmp_path / "packed")
    model = transformers.AutoModelForCausalLM.from_config(config)
    if any(name.endswith("experts.0.up_proj") for name, _ in model.named_modules()):
        pytest.skip("this transformers has a linear for each expert")
    with pytest.raises(swiftprune.InputError, match="experts.0.*expected a linear"):
        swiftprune.to_transformers(tmp_path / "packed")


def test_without_torch(dense, tmp_path):
    script = ("import sys; sys.modules['torch'] = None\n"
              "import swiftprune\n"
              "try: swiftprune.to_transformers('.')\n"
              "except ImportError as error: print(error)\n")
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install torch transformers" in finished.stdout
