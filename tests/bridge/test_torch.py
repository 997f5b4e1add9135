"""`octavo.bridge.torch`: PyTorch's modules as models, by both of torch's exporters."""

import functools
import importlib.util
import sys

import numpy as np
import pytest

import octavo as oc
from octavo.bridge.torch import from_torch

torch = pytest.importorskip("torch", reason="the bridge to PyTorch is not tested: no torch")
pytest.importorskip("onnx", reason="the bridge to PyTorch is not tested: no onnx")
nn = torch.nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x))) + x


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.blocks = nn.Sequential(Block(), Block())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.drop(self.blocks(torch.relu(self.stem(x))).mean((2, 3))))


class Words(nn.Module):
    """Two inputs, the second by name, a constant; a dict of outputs, one called as an input is."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.recurrent = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, ids, *, mask, factor=1.0):
        found, _ = self.recurrent(self.table(ids))
        return {"scores": self.head(found) * mask[..., None] * factor, "mask": mask}


class Nested(nn.Module):
    def forward(self, x, state):
        return x + state[0], [state[0] * 2, state[1]["b"] - x]


@pytest.fixture(params=["dynamo", "older"])
def exporter(request, monkeypatch):
    """Torch's exporter, with onnxscript and without."""
    found = importlib.util.find_spec("onnxscript") is not None
    if request.param == "dynamo" and not found:
        pytest.skip("torch's exporter is not tested: no onnxscript")
    if request.param == "older" and found:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: None if name == "onnxscript" else real(name, *rest),
        )
    return request.param


def made(kind):
    torch.manual_seed(0)
    module = kind()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):  # with statistics as training leaves them
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
    return module


def answer(module, *args, **kwargs):
    module.eval()
    with torch.no_grad():
        return module(*args, **kwargs)


def images(n=16):
    return np.random.default_rng(0).normal(size=(n, 3, 12, 12)).astype(np.float32)


def near(got, expected):
    np.testing.assert_allclose(got, np.asarray(expected), rtol=1e-4, atol=1e-5)


@functools.cache
def exported_images(exporter):
    assert exporter in ("dynamo", "older")  # whichever the fixture has made torch use
    return from_torch(made(Images), images(1))


def test_a_module_gives_what_torch_gives_for_any_batch(exporter):
    module, model = made(Images), exported_images(exporter)
    assert [(v.name, v.shape) for v in model.inputs] == [("x", ("batch", 3, 12, 12))]
    assert [v.name for v in model.outputs] == ["output"]
    for n in (1, 7):
        near(model(images(n)), answer(module, torch.from_numpy(images(n))))


def test_layers_have_the_names_of_their_modules(exporter):
    names = {layer.name: layer.operator for layer in exported_images(exporter).layers}
    products = [name for name, op in names.items() if op in ("Conv", "Gemm")]
    assert products == ["stem", "blocks.0.conv", "blocks.1.conv", "head"]
    assert names["blocks.1.Add"] == "Add"


@pytest.mark.usefixtures("exporter")
def test_functions_and_norms_made_of_several_operators_have_the_name_of_their_module():
    module = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 4), nn.GroupNorm(2, 4))
    x = torch.randn(2, 4)
    model = from_torch(module, x)
    near(model(x), answer(module, x))
    assert {"0", "1", "2", "3"} <= {layer.name for layer in model.layers}


def test_products_with_a_transposed_weight_have_the_name_of_their_module(exporter):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = from_torch(module, torch.randn(2, 5, 16), dynamic={"src": {0: "batch", 1: "length"}})
    names = {layer.name for layer in model.layers}
    assert {f"layers.{i}.{part}" for i in (0, 1) for part in ("linear1", "norm2")} <= names
    # The older exporter fixes sizes that Python computes with, as this module does with the length.
    x = torch.randn(3, 9 if exporter == "dynamo" else 5, 16)
    near(model(x), answer(module, x))


def test_with_data_the_model_is_quantized_layer_by_layer(exporter):
    module = made(Images)
    q = from_torch(
        module,
        images(2),
        torch.from_numpy(images()),
        precision={"*": "int8", "blocks.1.*": "float32"},
        progress=None,
    )
    kernels = {layer.name: layer.kernel for layer in q.layers}
    assert kernels["stem"] == kernels["blocks.0.conv"] == "conv int8"
    assert kernels["head"] == "linear int8"
    assert kernels["blocks.1.conv"] == "conv float32"
    expected = answer(module, torch.from_numpy(images())).numpy()
    error = q(images()) - expected
    assert np.square(error).mean() < 2e-3 * np.square(expected).mean()
    wanted = {"*": "int8", "blocks.1.*": "float32"}
    again = oc.quantize_model(exported_images(exporter), images(), wanted)
    assert q(images()).tobytes() == again(images()).tobytes()


@pytest.mark.usefixtures("exporter")
def test_data_are_int8_without_a_precision_and_a_precision_needs_no_data():
    module = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    x = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    assert {layer.kernel for layer in from_torch(module, x).layers} == {"linear float32"}
    kernels = [layer.kernel for layer in from_torch(module, x, x, equalize=False).layers]
    assert kernels == ["quantize", "linear int8", "linear int8"]
    weights = from_torch(module, x, precision="int4/32").layers
    assert weights[0].kernel == "linear int4/32"


@pytest.mark.usefixtures("exporter")
def test_several_inputs_by_name_constants_and_outputs_of_a_dict():
    module = made(Words)
    example = {
        "factor": 3.0, "mask": torch.ones(2, 5), "ids": torch.zeros(2, 5, dtype=torch.long)
    }  # fmt: skip
    free = {0: "batch", 1: "length"}
    model = from_torch(module, example, dynamic={"ids": free, "mask": free})
    assert [v.name for v in model.inputs] == ["ids", "mask"]
    assert [v.name for v in model.outputs] == ["scores", "mask_1"]
    assert {"table", "recurrent", "head"} <= {layer.name for layer in model.layers}
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 10, (3, 4)), rng.uniform(size=(3, 4)).astype(np.float32)
    got = model(ids=ids, mask=mask)
    expected = answer(module, torch.tensor(ids), mask=torch.tensor(mask), factor=3.0)
    near(got["scores"], expected["scores"])
    assert got["mask_1"].tobytes() == mask.tobytes()


@pytest.mark.usefixtures("exporter")
def test_tensors_inside_arguments_are_inputs_and_nested_outputs_are_numbered():
    x, a, b = (np.full((2, 3), value, np.float32) for value in (1, 2, 5))
    model = from_torch(Nested(), (x, (a, {"b": b})))
    assert [v.name for v in model.inputs] == ["x", "state_0", "state_1_b"]
    assert all(v.shape == ("batch", 3) for v in model.inputs)
    got = model(x[:1], a[:1], b[:1])
    assert {name: value.tolist() for name, value in got.items()} == {
        "output_0": [[3.0] * 3], "output_1_0": [[4.0] * 3], "output_1_1": [[4.0] * 3],
    }  # fmt: skip


@pytest.mark.usefixtures("exporter")
def test_axes_are_fixed_where_none_is_free():
    model = from_torch(nn.Linear(4, 2), np.zeros((3, 4), np.float32), dynamic={})
    assert model.inputs[0].shape == (3, 4)


@pytest.mark.usefixtures("exporter")
def test_the_module_is_left_as_it_was():
    module = made(Images).train()
    module.blocks[0].norm.eval()  # frozen while the rest trains
    modes = [each.training for each in module.modules()]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    from_torch(module, images(2))
    assert [each.training for each in module.modules()] == modes
    with pytest.raises(TypeError, match="does not fit"):
        from_torch(module, (images(2), 1))
    with pytest.raises(RuntimeError):
        from_torch(module, images(2)[:, :2])
    assert [each.training for each in module.modules()] == modes
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(value.grad is None for value in module.parameters())


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 4) + 1


def test_a_batch_that_the_module_fixes_is_an_error_that_says_how_to_go_on():
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("only torch's newer exporter sees it: no onnxscript")
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(oc.ModelError, match=r"Fixed .*dynamic=\{\} frees none.*static shape of 2"):
        from_torch(Fixed(), x)
    assert from_torch(Fixed(), x, dynamic={})(x).tolist() == [[1.0] * 4] * 2


def test_bad_arguments_are_refused_before_any_work():
    module, x = nn.Linear(4, 2), np.zeros((3, 4), np.float32)
    with pytest.raises(TypeError, match=r"module is function, expected torch\.nn\.Module"):
        from_torch(lambda x: x, x)
    with pytest.raises(TypeError, match="missing a required argument: 'mask'"):
        from_torch(Words(), x)
    with pytest.raises(ValueError, match="example holds no tensor"):
        from_torch(module, 3.0)
    with pytest.raises(ValueError, match="dynamic names 'y', expected inputs of input"):
        from_torch(module, x, dynamic={"y": {0: "batch"}})
    with pytest.raises(ValueError, match="dynamic has axis 2 of 'input', which has 2 axes"):
        from_torch(module, x, dynamic={"input": {2: "batch"}})
    with pytest.raises(TypeError, match="'equalize' is given, and neither data nor a precision"):
        from_torch(module, x, equalize=False)


def test_without_torch_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'octavo\[torch\]'"):
        from_torch(None, None)
