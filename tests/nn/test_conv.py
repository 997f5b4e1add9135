"""Convolutions: functions and operators, on every instruction set, against plain NumPy in int64."""

import copy
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from conftest import IN_QEMU
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc

X = oc.QParams(0.05, 120)
OUT = oc.QParams(0.3, 17, "int8")


KINDS = ["plain", "depthwise", "transposed", "signals"]
FUNCTIONS = [
    "hard_swish", ("hard_sigmoid", 0.2, 0.5), "sigmoid", "silu", "gelu", "gelu_tanh", "tanh",
    ("leaky_relu", 0.1), ("elu", 1.0),
]  # fmt: skip
BOUNDS = {None: (None, None), "relu": (0.0, None), "relu6": (0.0, 6.0)}


def bounds_of(activation):
    return BOUNDS[activation] if activation in BOUNDS else activation[1:]


@st.composite
def params(draw):
    """Parameters whose zero point is anywhere in the range."""
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info = np.iinfo(dtype)
    zero = draw(st.one_of(st.sampled_from([info.min, info.max]), st.integers(info.min, info.max)))
    return oc.QParams(draw(st.floats(2**-7, 0.25, width=32)), zero, dtype)


@st.composite
def cases(draw):
    size = st.integers(1, 9)
    kind = draw(st.sampled_from(KINDS))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    group_in, group_out = draw(st.sampled_from([1, 2, 3, 5, 16, 33])), draw(size)
    if kind == "depthwise":
        groups, group_in, group_out = draw(st.integers(2, 40)), 1, draw(st.integers(1, 2))
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, dilation = draw(two), draw(two)
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    image = draw(st.tuples(size, size))
    side = st.integers(0, 3)
    padding = draw(st.tuples(side, side, side, side))
    if kind == "signals":
        stride, dilation = (1, stride[1]), (1, draw(st.integers(1, 9)))
        kernel, image = (1, draw(st.integers(1, 12))), (1, draw(st.integers(1, 40)))
        padding = (0, padding[1], 0, padding[3])
    clips = st.sampled_from([None, "relu", "relu6", ("clip", -1.5, 2.5), ("clip", None, 1.0)])
    result = draw(st.sampled_from(["int32", "float32", "codes", "table"]))
    x = draw(st.sampled_from(["codes", "QTensor", "float32", "on the fly"]))
    if x == "on the fly" and result == "int32":
        x = "codes"
    has_residual = result in {"codes", "table"} and draw(st.booleans())
    return {
        "kind": kind,
        "x": (draw(st.integers(1, 3)), groups * group_in, *image),
        "given": x,
        "groups": groups,
        "group_in": group_in,
        "group_out": group_out,
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "same": kind != "transposed" and draw(st.integers(0, 3)) == 0,
        "more": tuple(draw(st.integers(0, s - 1)) for s in stride),
        "x_qparams": draw(params()),
        "w_dtype": draw(st.sampled_from(["int8", "int8", "uint8"])),
        "w_scales": draw(st.booleans()),  # one for each output channel
        "w_zeros": draw(st.sampled_from(["none", "one", "each"])),
        "bias": draw(st.sampled_from([None, "float32", "int32"])),
        "result": result,
        "activation": draw(st.sampled_from(FUNCTIONS) if result == "table" else clips),
        "pre": draw(st.none() | params()) if result == "table" else None,
        "out": draw(params()) if result in {"codes", "table"} else None,
        "residual": draw(params()) if has_residual else None,
        "sum": draw(params()) if has_residual else None,
        "sum_activation": draw(clips) if has_residual else None,
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def same_sides(case):
    """ONNX's SAME_UPPER."""
    before, behind = [], []
    for size, k, s, d in zip(
        case["x"][2:], case["kernel"], case["stride"], case["dilation"], strict=True
    ):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        before.append(total // 2)
        behind.append(total - total // 2)
    return (*before, *behind)


class Problem:
    """Operands of a case, and what must come of them by tests/reference.py."""

    def __init__(self, case):
        rng = np.random.default_rng(case["seed"])
        self.case = case
        self.transposed = case["kind"] == "transposed"
        outputs = case["groups"] * case["group_out"]
        ranges = reference.RANGES
        q, (least, most) = case["x_qparams"], ranges[case["x_qparams"].dtype]
        codes = rng.integers(least, most + 1, case["x"]).astype(q.dtype)
        if case["given"] in {"codes", "QTensor"}:
            self.x = codes
            zero, x_scale = int(q.zero_point), np.float32(q.scale)
        else:
            self.x = ((codes.astype(np.float32) - 60) * np.float32(0.07)).astype(np.float32)
            if case["given"] == "float32":
                codes = reference.quantize(self.x, q.scale, q.zero_point, q.dtype)
                zero, x_scale = int(q.zero_point), np.float32(q.scale)
            else:  # a range for each image
                codes, x_scale, zero = reference.quantize_rows(self.x.reshape(len(codes), -1))
                codes = codes.reshape(self.x.shape)
                x_scale, zero = (each.reshape(-1, 1, 1, 1) for each in (x_scale, zero))

        least, most = ranges[case["w_dtype"]]
        shape = (outputs, case["group_in"], *case["kernel"])
        if self.transposed:
            shape = (case["x"][1], case["group_out"], *case["kernel"])
        w = rng.integers(least, most + 1, shape).astype(case["w_dtype"])
        axis, per = (1, case["group_out"]) if self.transposed else (0, outputs)
        has_each = case["w_scales"] or case["w_zeros"] == "each"
        w_scale = rng.uniform(0.001, 0.01, per if case["w_scales"] else ()).astype(np.float32)
        w_scale = np.broadcast_to(w_scale, per) if has_each else w_scale
        w_zero = rng.integers(least, most + 1, per if case["w_zeros"] == "each" else ())
        w_zero = np.zeros_like(w_zero) if case["w_zeros"] == "none" else w_zero
        w_zero = np.broadcast_to(w_zero, per) if has_each else w_zero
        self.w = oc.QTensor(w, w_scale, w_zero, axis=axis if has_each else None)

        column = [1] * 4
        column[axis] = -1
        centred = w.astype(np.int64) - np.reshape(w_zero, column if has_each else ())
        self.padding = same_sides(case) if case["same"] else case["padding"]
        geometry = (case["stride"], self.padding, case["dilation"], case["groups"])
        self.sums = None  # where no output is left
        if self.transposed:
            sums = reference.transposed_sums(codes.astype(np.int64) - zero, centred, *geometry,
                                             case["more"])  # fmt: skip
            self.sums = sums if min(sums.shape) > 0 else None
        else:
            room = [
                size + self.padding[i] + self.padding[i + 2] - (k - 1) * d - 1
                for i, (size, k, d) in enumerate(
                    zip(case["x"][2:], case["kernel"], case["dilation"], strict=True)
                )
            ]
            if min(room) >= 0:
                self.sums = reference.conv_sums(codes.astype(np.int64) - zero, centred, *geometry)
        all_scales = np.broadcast_to(w_scale, per) if has_each else np.full(per, w_scale)
        self.w_scale = np.tile(all_scales, outputs // per)
        self.x_scale = np.reshape(x_scale, (-1, 1, 1, 1))

        self.bias = None
        if case["bias"] == "int32" and case["given"] != "on the fly":
            self.bias = rng.integers(-(2**16), 2**16, outputs).astype(np.int32)
        elif case["bias"] is not None:
            self.bias = rng.standard_normal(outputs).astype(np.float32)
        self.residual = None
        if case["residual"] is not None:
            r = case["residual"]
            least, most = ranges[r.dtype]
            shape = case["x"] if self.sums is None else self.sums.shape
            self.residual = rng.integers(least, most + 1, shape).astype(r.dtype)

    def expected(self):
        """Return the result, channels first."""
        case, bias = self.case, self.bias
        sums = np.moveaxis(self.sums, 1, -1)  # as the reference has channels
        is_real = case["result"] == "float32" or case["given"] == "on the fly"
        if bias is not None and bias.dtype == np.float32 and not is_real:
            bias = reference.integer_bias(bias, self.x_scale.item(), self.w_scale)
        if bias is not None and bias.dtype != np.float32:
            sums, bias = sums + bias, None
        if case["result"] == "int32":
            return np.moveaxis(sums, -1, 1)
        bounds = (None, None) if case["result"] == "table" else bounds_of(case["activation"])
        before = case["out"] if case["pre"] is None else case["pre"]
        if is_real:
            codes = reference.float_output(sums, self.x_scale, self.w_scale, bias)
            codes = reference.clip(codes, *bounds)
            if case["result"] == "float32":
                return np.moveaxis(codes, -1, 1)
            codes = reference.quantize(codes, before.scale, before.zero_point, before.dtype)
        else:
            codes = reference.requantize(
                sums,
                reference.multiplier(self.x_scale.item(), self.w_scale, before.scale),
                int(before.zero_point),
                before.dtype,
                0,
                *reference.in_steps(bounds, before.scale),
            )
        codes = np.moveaxis(codes, -1, 1)
        if case["result"] == "table":  # tests/nn/test_tensor.py says what the function is
            codes = oc.nn.activate(
                oc.QTensor(codes, before.scale, before.zero_point),
                case["activation"],
                out_qparams=case["out"],
            ).codes()
        if self.residual is None:
            return codes
        tensors = (case["out"], case["residual"], case["sum"])
        return reference.add(
            codes,
            self.residual,
            [float(q.scale) for q in tensors],
            [int(q.zero_point) for q in tensors],
            case["sum"].dtype,
            bounds_of(case["sum_activation"]),
        )

    def run(self):
        """Return octavo's result, channels first."""
        case, x, w = self.case, self.x, self.w
        layout = case["layout"]
        options = {
            "stride": case["stride"],
            "padding": "same" if case["same"] else case["padding"],
            "dilation": case["dilation"],
            "groups": case["groups"],
            "layout": layout,
            "activation": case["activation"],
            "pre_qparams": case["pre"],
            "out_qparams": case["out"],
            "residual_qparams": case["residual"],
            "sum_qparams": case["sum"],
            "sum_activation": case["sum_activation"],
        }
        if case["result"] == "int32":
            options |= {"out_dtype": "int32", "activation": None}
        if case["given"] in {"codes", "float32"}:
            options["x_qparams"] = case["x_qparams"]
        residual = self.residual
        if case["kind"] == "signals":
            x, w = x[:, :, 0], oc.QTensor(w.codes()[:, :, 0], w.scale, w.zero_point, axis=w.axis)
            residual = None if residual is None else residual[:, :, 0]
            options |= {name: options[name][1] for name in ("stride", "dilation")}
            options["layout"] = layout.replace("H", "", 1)
            if not case["same"]:
                options["padding"] = case["padding"][1::2]
        x = reference.to_layout(x, layout)
        if case["given"] == "QTensor":
            x = oc.QTensor(x, case["x_qparams"].scale, case["x_qparams"].zero_point)
        if residual is not None:
            options["residual"] = reference.to_layout(residual, layout)
        function = {"signals": oc.conv1d, "transposed": oc.conv_transpose2d}.get(
            case["kind"], oc.conv2d
        )
        if self.transposed:
            options["output_padding"] = case["more"]
        y = reference.from_layout(data_of(function(x, w, self.bias, **options)), layout)
        return y[:, :, None] if case["kind"] == "signals" else y


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(case=cases())
@settings(max_examples=15 if IN_QEMU else 150)
def test_all_parameters_together(name, case):
    problem = Problem(case)
    with oc.runtime.force_isa(name):
        if problem.sums is None:
            with pytest.raises(ValueError, match="no output is left"):
                problem.run()
            return
        expected = problem.expected()
        for threads in (1, 2, 3, 8):
            with oc.threads(threads):
                y = problem.run()
            assert y.dtype == (np.int32 if case["result"] == "int32" else expected.dtype)
            assert (y == expected).all()


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def example(rng, c=12, o=20, k=3, size=9, batch=2):
    w = rng.standard_normal((o, c, k, k)).astype(np.float32)
    bias = rng.standard_normal(o).astype(np.float32)
    x = rng.integers(0, 256, (batch, c, size, size)).astype(np.uint8)
    return x, w, bias


@pytest.mark.usefixtures("isa")
def test_dynamic_input_is_quantized_image_by_image(rng):
    _, w, bias = example(rng)
    w_q = oc.quantize(w, axis=0)
    x = rng.standard_normal((3, 12, 7, 8)).astype(np.float32) * [[[[1]]], [[[9]]], [[[0.1]]]]
    x = x.astype(np.float32)
    whole = oc.conv2d(x, w_q, bias, padding="same")
    parts = [oc.conv2d(x[i : i + 1], w_q, bias, padding="same") for i in range(3)]
    assert (whole == np.concatenate(parts)).all()
    exact = oc.conv2d(x, w, bias, padding="same")
    assert np.abs(whole - exact).max() < 0.05 * np.abs(exact).max()
    x[1, 0, 0, 0] = np.nan
    spoilt = oc.conv2d(x, w_q, bias, padding="same")
    assert np.isnan(spoilt[1]).all()
    assert (spoilt[[0, 2]] == whole[[0, 2]]).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("transposed", [False, True])
def test_fusing_a_table_and_a_sum_changes_no_bit(rng, layout, transposed):
    x, w, bias = example(rng, c=20, o=20)
    function = oc.conv_transpose2d if transposed else oc.conv2d
    w_q = oc.quantize(w, axis=1 if transposed else 0)
    pre, total = oc.QParams(0.25, 100), oc.QParams(0.2, 3)
    options = {"x_qparams": X, "padding": 1, "layout": layout}
    x = reference.to_layout(x, layout)
    plain = function(x, w_q, bias, out_qparams=pre, **options)
    activated = oc.nn.activate(plain, "hard_swish", out_qparams=OUT)
    fused = function(
        x, w_q, bias, out_qparams=OUT, pre_qparams=pre, activation="hard_swish", **options
    )
    assert fused.equals(activated)
    second = oc.QTensor(rng.integers(-128, 128, plain.shape).astype(np.int8), 0.4, -7)
    added = oc.nn.add(activated, second, out_qparams=total, activation="relu")
    fused = function(
        x,
        w_q,
        bias,
        out_qparams=OUT,
        pre_qparams=pre,
        activation="hard_swish",
        residual=second,
        sum_qparams=total,
        sum_activation="relu",
        **options,
    )
    assert fused.equals(added)


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("groups", [1, 4])
def test_float_weights_give_the_same_bits_everywhere(rng, precision, groups):
    w = rng.integers(-8, 9, (20, 12 // groups, 3, 3))
    x = rng.integers(-8, 9, (2, 12, 9, 9))
    expected = reference.conv_sums(x, w, (1, 1), (1, 1, 1, 1), (1, 1), groups)
    layer = oc.Conv2d.from_float(w.astype(np.float32), precision=precision, padding=1,
                                 groups=groups)  # fmt: skip
    noise = rng.standard_normal((2, 12, 9, 9)).astype(np.float32)
    found = set()
    for name in oc.runtime.available_isas():
        with oc.runtime.force_isa(name):
            assert (layer(x.astype(np.float32)) == expected).all()
            for threads in (1, 2, 8):
                with oc.threads(threads):
                    found.add(layer(noise).tobytes())
    assert len(found) == 1


@pytest.mark.usefixtures("isa")
def test_one_dimension_is_two_with_one_row(rng):
    w = oc.QTensor(rng.integers(-128, 128, (5, 4, 3)).astype(np.int8), 0.01)
    x = rng.integers(0, 256, (2, 4, 30)).astype(np.uint8)
    options = {"x_qparams": X, "out_qparams": OUT}
    y = oc.conv1d(x, w, stride=2, padding=(3, 1), dilation=4, **options)
    wide = oc.conv2d(
        x[:, :, None], oc.QTensor(w.codes()[:, :, None], 0.01), stride=(1, 2),
        padding=(0, 3, 0, 1), dilation=(1, 4), **options,
    )  # fmt: skip
    assert (y.codes() == wide.codes()[:, :, 0]).all()
    last = oc.conv1d(x.transpose(0, 2, 1), w, stride=2, padding=(3, 1), dilation=4, layout="NWC",
                     **options)  # fmt: skip
    assert (last.codes().transpose(0, 2, 1) == y.codes()).all()


@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_onnx_same_upper(rng, size, stride):
    x = rng.integers(0, 256, (1, 3, size, size)).astype(np.uint8)
    w = oc.QTensor(rng.integers(-128, 128, (4, 3, 4, 4)).astype(np.int8), 0.01)
    total = max((-(-size // stride) - 1) * stride + 4 - size, 0)
    before, behind = total // 2, total - total // 2
    options = {"x_qparams": X, "stride": stride, "out_dtype": "int32"}
    same = oc.conv2d(x, w, padding="same", **options)
    given_sides = oc.conv2d(x, w, padding=(before, before, behind, behind), **options)
    assert same.shape[2] == -(-size // stride)
    assert (same == given_sides).all()


def operators(rng):
    w = rng.standard_normal((6, 6, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(6).astype(np.float32)
    yield oc.Conv2d.from_float(w, bias, padding=1, x_qparams=X, out_qparams=OUT, activation="relu")
    yield oc.Conv2d.from_float(w[:, :1], bias, padding=1, groups=6, x_qparams=X, layout="NHWC")
    yield oc.Conv2d.from_float(w, bias, padding="same", precision="float16")
    yield oc.Conv2d.from_float(w, bias, precision="float32", x_qparams=X, out_qparams=OUT)
    yield oc.Conv1d.from_float(w[:, :, 0], bias, dilation=2, x_qparams=X)
    yield oc.ConvTranspose2d.from_float(w, bias, stride=2, output_padding=1, x_qparams=X)
    yield oc.ConvTranspose2d.from_float(w[:, :2], bias, groups=3, stride=2, x_qparams=X,
                                        out_qparams=OUT)  # fmt: skip


def input_of(layer, rng):
    dims = 1 if isinstance(layer, oc.Conv1d) else 2
    dtype = np.uint8 if layer.x_qparams is not None else np.float32
    shape = (2, 6, *(8,) * dims)
    if "NHWC" in repr(layer):
        shape = (2, 8, 8, 6)
    return rng.integers(0, 200, shape).astype(dtype)


def data_of(y):
    return y.codes() if isinstance(y, oc.QTensor) else y


def test_operators_pickle_copy_and_run_from_many_threads(rng):
    for layer in operators(rng):
        x = input_of(layer, rng)
        y = data_of(layer(x))
        twin = pickle.loads(pickle.dumps(layer, protocol=5))
        assert repr(twin) == repr(layer)
        assert (data_of(twin(x)) == y).all()
        assert copy.deepcopy(layer) is layer
        assert twin.__dask_tokenize__() == layer.__dask_tokenize__()
        w, bias = layer.unpack()
        again = twin.unpack()
        plain, other = (np.asarray(getattr(each, "data", each)) for each in (w, again[0]))
        assert (plain == other).all()
        assert (bias == again[1]).all()
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _, x=x, layer=layer: data_of(layer(x)), range(8)):
                assert (found == y).all()


def test_out_is_written_and_returned(rng):
    for layer in operators(rng):
        x = input_of(layer, rng)
        y = data_of(layer(x))
        out = np.empty_like(y)
        assert layer(x, out=out) is out
        assert (out == y).all()
        spread = np.zeros((*y.shape[:-1], 2 * y.shape[-1]), y.dtype)[..., ::2]
        assert layer(x, out=spread) is spread
        assert (spread == y).all()


def test_with_out_no_result_is_allocated(rng):
    for layer in operators(rng):
        if layer.precision == "float32":  # float32 first, which out_qparams quantize
            continue
        shape = [each if each == 6 else 96 for each in input_of(layer, rng).shape]
        x = np.zeros([2, *shape[1:]], input_of(layer, rng).dtype)
        out = np.empty_like(data_of(layer(x)))

        def allocated(layer=layer, x=x, **options):
            tracemalloc.start()
            try:
                layer(x, **options)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        assert allocated() >= out.nbytes
        assert allocated(out=out) < max(4096, out.nbytes // 8)


def test_a_bad_out_is_refused_before_any_work(rng):
    for layer in operators(rng):
        x = input_of(layer, rng)
        y = data_of(layer(x))
        memory = np.zeros(x.nbytes + y.nbytes + 64, np.uint8)
        inside = memory[: x.nbytes].view(x.dtype).reshape(x.shape)
        inside[...] = x
        start = x.nbytes - 8
        overlapping = memory[start : start + y.nbytes].view(y.dtype).reshape(y.shape)
        fixed = np.zeros_like(y)
        fixed.flags.writeable = False
        oc.matmul(np.ones((1, 1), np.int8), np.ones((1, 1), np.int8))
        before = oc.runtime.last_kernel()
        for given_x, out, error, message in (
            (x, y.tolist(), TypeError, r"out (is|must be)"),
            (x, np.zeros(y.shape, np.float64), TypeError, "out (is|has dtype) float64"),
            (x, np.zeros((1, *y.shape[1:]), y.dtype), ValueError, "out has shape"),
            (x, fixed, ValueError, "out is read-only"),
            (inside, overlapping, ValueError, r"out (overlaps|shares memory with) an input"),
        ):
            with pytest.raises(error, match=message):
                layer(given_x, out=out)
        assert oc.runtime.last_kernel() == before
        assert not fixed.any()
        assert (inside == x).all()


def test_a_bad_residual_is_refused(rng):
    x, w, _ = example(rng, c=20, o=20)
    total = oc.QParams(0.2, 3)
    layer = oc.Conv2d.from_float(w, padding=1, x_qparams=X, out_qparams=OUT,
                                 residual_qparams=OUT, sum_qparams=total)  # fmt: skip
    residual = np.zeros(x.shape, np.int8)
    wanted = layer(x, residual)
    memory = residual.copy()
    for given_residual, out, error, message in (
        (None, None, ValueError, "residual is None, expected the tensor"),
        (residual[:1], None, ValueError, "residual has shape .* expected"),
        (
            residual.astype(np.uint8),
            None,
            TypeError,
            "residual is uint8, residual_qparams has int8",
        ),
        (residual.astype(np.float32), None, TypeError, "residual is float32"),
        (
            oc.QTensor(residual, 0.1),
            None,
            ValueError,
            "residual has .*, expected residual_qparams=",
        ),
        (memory, memory.view(np.uint8), ValueError, "out shares memory with an input"),
    ):
        with pytest.raises(error, match=message):
            layer(x, given_residual, out=out)
    plain = oc.Conv2d.from_float(w, padding=1, x_qparams=X, out_qparams=OUT)
    with pytest.raises(ValueError, match="prepared without"):
        plain(x, residual)
    assert layer(x, residual).equals(wanted)


def test_any_strides_are_read(rng):
    x, w, _ = example(rng, size=6)
    w_q = oc.quantize(w, axis=0)
    y = oc.conv2d(x, w_q, x_qparams=X, out_qparams=OUT).codes()
    turned = np.asfortranarray(x)
    gaps = np.repeat(x, 2, axis=3)[..., ::2]
    backwards = x[:, :, :, ::-1].copy()[:, :, :, ::-1]
    for other in (turned, gaps, backwards):
        assert (oc.conv2d(other, w_q, x_qparams=X, out_qparams=OUT).codes() == y).all()


def test_an_empty_batch_gives_an_empty_result(rng):
    _, w, bias = example(rng)
    x = np.empty((0, 12, 9, 9), np.uint8)
    assert oc.conv2d(x, oc.quantize(w, axis=0), bias, x_qparams=X).shape == (0, 20, 7, 7)


def test_a_bias_too_large_for_int32_raises_the_scale_of_its_weights(rng):
    x, w, bias = example(rng)
    w = w * np.float32(1e-7)
    bias[3] = 1e4
    with pytest.warns(RuntimeWarning, match="bias of .* overflows int32"):
        layer = oc.Conv2d.from_float(w, bias, x_qparams=oc.QParams(1e-4, 0), out_qparams=OUT)
    assert layer(x).shape == (2, 20, 7, 7)


W = oc.QTensor(np.ones((4, 2, 3, 3), np.int8), 1.0)
IMAGE = np.zeros((1, 2, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": 3}, ValueError, "groups=3 must divide"),
        ({"groups": 0}, ValueError, "groups is 0, expected at least 1"),
        ({"stride": 0}, ValueError, "stride is 0, expected at least 1"),
        ({"dilation": 0}, ValueError, "dilation is 0, expected at least 1"),
        ({"padding": -1}, ValueError, "padding is -1, expected at least 0"),
        ({"padding": (1, 2, 3)}, ValueError, "padding has 3 values"),
        ({"padding": "valid"}, ValueError, "padding is 'valid', expected 'same'"),
        ({"stride": (1, 2, 3)}, ValueError, "stride has 3 values"),
        ({"stride": 1.5}, TypeError, "stride is 1.5, expected an integer"),
        ({"dilation": 9}, ValueError, "no output is left"),
        ({"layout": "CHWN"}, ValueError, "layout is 'CHWN', expected 'NCHW' or 'NHWC'"),
        ({"activation": "softmax"}, ValueError, "activation is 'softmax'"),
        ({"activation": "silu"}, ValueError, "needs out_qparams"),
        ({"pre_qparams": OUT}, ValueError, "pre_qparams is given without"),
        ({"out_dtype": "int16"}, ValueError, "out_dtype is 'int16'"),
        ({"out_dtype": "int32", "activation": "relu"}, ValueError, "out_dtype='int32'"),
        ({"sum_qparams": OUT}, ValueError, "residual and sum_qparams go together"),
        ({"x": np.zeros((1, 3, 8, 8), np.uint8)}, ValueError, "in_channels=2, x has 3"),
        ({"x": np.zeros((2, 8, 8), np.uint8)}, ValueError, "x must have 4 dimensions"),
        ({"x": IMAGE.astype(np.int8)}, TypeError, "x is int8, x_qparams has uint8"),
        ({"x_qparams": None}, ValueError, "x is uint8 without x_qparams"),
        ({"w": oc.QTensor(np.ones((4, 2), np.int8), 1.0)}, ValueError, "w has 2 dimensions"),
        (
            {"w": oc.QTensor(np.ones((4, 2, 3, 3), np.int8), np.ones(2), axis=1)},
            ValueError,
            "varies along axis 1",
        ),
        ({"bias": np.zeros(3, np.float32)}, ValueError, "bias has shape"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    options = {"x": IMAGE, "w": W, "bias": None, "x_qparams": X} | change
    with pytest.raises(error, match=message):
        oc.conv2d(options.pop("x"), options.pop("w"), options.pop("bias"), **options)


def test_output_padding_must_be_below_the_stride():
    with pytest.raises(ValueError, match="output_padding must be below the stride"):
        oc.conv_transpose2d(IMAGE, oc.QTensor(np.ones((2, 2, 3, 3), np.int8), 1.0), x_qparams=X,
                            output_padding=1)  # fmt: skip


def test_operators_are_made_by_their_class_methods():
    with pytest.raises(TypeError, match=r"use Conv2d\.from_float"):
        oc.Conv2d()
    with pytest.raises(TypeError, match=r"expected octavo\.QTensor"):
        oc.Conv2d.from_quantized(np.ones((1, 1, 1, 1)))
    with pytest.raises(ValueError, match="precision is 'int2'"):
        oc.Conv2d.from_float(np.ones((1, 1, 1, 1)), precision="int2")
