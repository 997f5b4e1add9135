"""
Octavo's kernels behind plain functions. Use the package `octavo`, not this module.
"""
from __future__ import annotations
import _contextvars
import collections.abc
import numpy
import typing
__all__: list[str] = ['ArenaPool', 'ConvOp', 'DOTS_PER_THREAD', 'FloatLinearOp', 'GatherOp', 'GroupedLinearOp', 'LinearOp', 'PackedMatrix', 'Plan', 'PlanBuilder', 'RecurrentOp', 'activation_table', 'add', 'argmax', 'attention', 'available_isas', 'average_pool', 'cache_sizes', 'check_isa', 'clip', 'concat', 'cpu_features', 'cpu_name', 'dequantize', 'enable_contexts', 'float_average_pool', 'float_function', 'float_max_pool', 'float_mean', 'fp_control', 'get_num_threads', 'group_norm', 'isa', 'isa_context', 'known_isas', 'last_kernel', 'layer_norm', 'lookup', 'matmul', 'max_pool', 'measure_bandwidth', 'measure_peak', 'minmax', 'multiply', 'pack', 'quantize', 'quantize_rows', 'quantize_symmetric_rows', 'requantize', 'resize', 'rms_norm', 'rotate', 'set_dots_per_thread', 'set_fp_control', 'set_num_threads', 'softmax', 'threads_context', 'usable_cores']
class PackedMatrix:
    """
    The right operand of `matmul`, packed for this CPU; see `pack`.
    """
    def __getstate__(self) -> tuple[numpy.ndarray]:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: tuple[numpy.ndarray]) -> None:
        ...
    def unpack(self) -> numpy.ndarray:
        """
        The (K, N) array that was packed, exactly.
        """
    @property
    def dtype(self) -> numpy.dtype[typing.Any]:
        """
        int8 or uint8, as it was packed.
        """
    @property
    def isa(self) -> str:
        """
        The ISA it was first packed for.
        """
    @property
    def nbytes(self) -> int:
        """
        Bytes that the packed form takes, column sums included.
        """
    @property
    def shape(self) -> tuple[int, int]:
        """
        (K, N), as it was packed.
        """
class LinearOp:
    """
    A prepared linear operator: y = activation(x * w^T + bias), w in 8 bits.
    """
    def __call__(self, x: numpy.ndarray, out: numpy.ndarray | None = None) -> numpy.ndarray:
        """
        Call self as a function.
        """
    def __init__(self, w: typing.Any, w_scale: typing.Any, w_zero_point: typing.Any, *, bias: typing.Any = None, x_scale: typing.Any = None, x_zero_point: typing.SupportsInt | typing.SupportsIndex = 0, x_dtype: typing.Any = None, out_dtype: typing.Any = 'float32', out_scale: typing.Any = None, out_zero_point: typing.SupportsInt | typing.SupportsIndex = 0, lo: typing.Any = None, hi: typing.Any = None) -> None:
        ...
    def run_rows(self, x: typing.Any, scale: typing.Any, zero_point: typing.Any, out: typing.Any = None) -> numpy.ndarray:
        """
        Rows that were quantized to uint8 as the operator would: a scale and a zero point for each.
        """
    def unpack(self) -> numpy.ndarray:
        """
        The (out_features, in_features) codes, exactly.
        """
    @property
    def in_features(self) -> int:
        ...
    @property
    def isa(self) -> str:
        ...
    @property
    def nbytes(self) -> int:
        ...
    @property
    def out_features(self) -> int:
        ...
class FloatLinearOp:
    """
    A prepared linear operator: y = clip(x * w^T + bias), w in float32 or float16.
    """
    def __call__(self, x: numpy.ndarray, out: numpy.ndarray | None = None) -> numpy.ndarray:
        """
        Call self as a function.
        """
    def __init__(self, w: typing.Any, *, bias: typing.Any = None, lo: typing.Any = None, hi: typing.Any = None) -> None:
        ...
    def unpack(self) -> numpy.ndarray:
        """
        The (out_features, in_features) weights, bit for bit.
        """
    @property
    def in_features(self) -> int:
        ...
    @property
    def isa(self) -> str:
        ...
    @property
    def nbytes(self) -> int:
        ...
    @property
    def out_features(self) -> int:
        ...
class GroupedLinearOp:
    """
    A prepared linear operator, y = clip(x * w^T + bias), with weights of 4 or 8 bits that have a scale (and a zero point) for each group along in_features; rows of x become int8.
    """
    def __call__(self, x: numpy.ndarray, out: numpy.ndarray | None = None) -> numpy.ndarray:
        """
        Call self as a function.
        """
    def __init__(self, w: typing.Any, scale: typing.Any, zero_point: typing.Any, group_size: typing.SupportsInt | typing.SupportsIndex, *, bits: typing.SupportsInt | typing.SupportsIndex, bias: typing.Any = None, lo: typing.Any = None, hi: typing.Any = None) -> None:
        ...
    def unpack(self) -> numpy.ndarray:
        """
        The (out_features, in_features) codes, one a byte, exactly.
        """
    @property
    def in_features(self) -> int:
        ...
    @property
    def isa(self) -> str:
        ...
    @property
    def nbytes(self) -> int:
        ...
    @property
    def out_features(self) -> int:
        ...
class ConvOp:
    """
    A prepared convolution with weights in 8 bits, or (w_scale None) in float32 or float16.
    """
    def __call__(self, x: numpy.ndarray, out: numpy.ndarray | None = None, residual: numpy.ndarray | None = None) -> numpy.ndarray:
        """
        Call self as a function.
        """
    def __init__(self, w: typing.Any, w_scale: typing.Any, w_zero_point: typing.Any, *, bias: typing.Any = None, stride: typing.Any = (1, 1), padding: typing.Any = (0, 0, 0, 0), same: bool = False, dilation: typing.Any = (1, 1), groups: typing.SupportsInt | typing.SupportsIndex = 1, transposed: bool = False, output_padding: typing.Any = (0, 0), layout: str = 'NCHW', x_scale: typing.Any = None, x_zero_point: typing.SupportsInt | typing.SupportsIndex = 0, x_dtype: typing.Any = None, out_dtype: typing.Any = 'float32', out_scale: typing.Any = None, out_zero_point: typing.SupportsInt | typing.SupportsIndex = 0, lo: typing.Any = None, hi: typing.Any = None, table: typing.Any = None, table_scale: typing.Any = None, table_zero_point: typing.SupportsInt | typing.SupportsIndex = 0, residual: typing.Any = None, sum: typing.Any = None) -> None:
        ...
    def output_shape(self, shape: typing.Any) -> tuple[int, int, int, int]:
        """
        The shape of the result for x of this shape.
        """
    def unpack(self) -> numpy.ndarray:
        """
        The codes of the weights, exactly, in the shape they were given in.
        """
    @property
    def in_channels(self) -> int:
        ...
    @property
    def isa(self) -> str:
        ...
    @property
    def kernel_size(self) -> tuple[int, int]:
        ...
    @property
    def nbytes(self) -> int:
        ...
    @property
    def out_channels(self) -> int:
        ...
class RecurrentOp:
    """
    A prepared LSTM or GRU of linear operators. directions: (is_reverse, input, [state...], peepholes or None, [(activation, alpha, beta)...]) of each.
    """
    def __call__(self, x: typing.Any, initial_h: typing.Any = None, initial_c: typing.Any = None, sequence_lens: typing.Any = None, out: typing.Any = None) -> tuple[numpy.ndarray, ...]:
        """
        (y, y_h) of a GRU, (y, y_h, y_c) of an LSTM; out is None, or a tuple of as many.
        """
    def __init__(self, *, is_lstm: bool, hidden: typing.SupportsInt | typing.SupportsIndex, directions: typing.Any, clip: typing.Any = None, couples_forget: bool = False, batch_first: bool = False) -> None:
        ...
class GatherOp:
    """
    Rows of a stored table by index, as float32.
    """
    def __call__(self, x: numpy.ndarray, out: numpy.ndarray | None = None) -> numpy.ndarray:
        """
        Call self as a function.
        """
    def __init__(self, data: typing.Any, rows: typing.SupportsInt | typing.SupportsIndex, length: typing.SupportsInt | typing.SupportsIndex, dtype: str, scale: typing.Any = None, zero_point: typing.Any = None, group_size: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
class Plan:
    """
    Operators, one after another, on arrays of known shapes: called with the inputs, it returns a tuple of new arrays; None where inputs are not of those shapes and dtypes, or where a result does not fit int32.
    """
    def __call__(self, *inputs: numpy.ndarray) -> tuple[numpy.ndarray, ...] | None:
        """
        Call self as a function.
        """
    @property
    def nbytes(self) -> int:
        """
        Bytes of the memory that a call takes for what lies between its inputs and outputs.
        """
    @property
    def steps(self) -> int:
        ...
class ArenaPool:
    """
    Memory that plans share, and that calls at the same time do not.
    """
    def __init__(self) -> None:
        ...
class PlanBuilder:
    """
    A plan in the making. Values are numbers, which its functions return; steps run in the order they were added in. Arguments are those of the functions and operators of the same names.
    """
    def __init__(self) -> None:
        ...
    def add(self, a: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, a_scale: typing.Any, a_zero_point: typing.Any, b_scale: typing.Any, b_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, *, lo: typing.Any = None, hi: typing.Any = None) -> int:
        ...
    def average_pool(self, x: typing.SupportsInt | typing.SupportsIndex, x_scale: typing.Any, x_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, kernel: typing.Any, stride: typing.Any = None, padding: typing.Any = (0, 0, 0, 0), ceil_mode: bool = False, count_include_pad: bool = False, layout: str = 'NCHW') -> int:
        ...
    def clip(self, x: typing.SupportsInt | typing.SupportsIndex, lo: typing.Any, hi: typing.Any) -> int:
        """
        x > lo ? x : lo, then < hi ? that : hi, of float32 values; None: no bound. NaN for NaN.
        """
    def concat(self, values: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], tables: typing.Any, axis: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        As the function of codes; values without a table are of any dtype.
        """
    def constant(self, array: typing.Any) -> int:
        ...
    def conv(self, op: typing.Any, x: typing.SupportsInt | typing.SupportsIndex, residual: typing.Any = None) -> int:
        ...
    def dequantize(self, x: typing.SupportsInt | typing.SupportsIndex, scale: typing.Any, zero_point: typing.Any, axis: typing.Any) -> int:
        ...
    def dtype(self, x: typing.SupportsInt | typing.SupportsIndex) -> str:
        ...
    def finish(self, outputs: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], arenas: ArenaPool) -> Plan:
        """
        The plan. The builder holds nothing after.
        """
    def float_average_pool(self, x: typing.SupportsInt | typing.SupportsIndex, kernel: typing.Any, stride: typing.Any, padding: typing.Any = (0, 0, 0, 0), ceil_mode: bool = False, count_include_pad: bool = False) -> int:
        ...
    def float_function(self, name: str, x: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def float_max_pool(self, x: typing.SupportsInt | typing.SupportsIndex, kernel: typing.Any, stride: typing.Any, padding: typing.Any = (0, 0, 0, 0), ceil_mode: bool = False) -> int:
        ...
    def float_mean(self, x: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def float_pair(self, name: str, a: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        add, subtract, multiply or divide, as NumPy's functions of float32 arrays.
        """
    def input(self, dtype: typing.Any, shape: typing.Any) -> int:
        ...
    def layer_norm(self, x: typing.SupportsInt | typing.SupportsIndex, weight: typing.Any, bias: typing.Any, axis: typing.SupportsInt | typing.SupportsIndex, eps: typing.Any) -> int:
        ...
    def linear(self, op: typing.Any, x: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def lookup(self, x: typing.SupportsInt | typing.SupportsIndex, table: typing.Any) -> int:
        ...
    def matmul(self, a: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, *, a_zero_point: typing.SupportsInt | typing.SupportsIndex, b_zero_point: typing.SupportsInt | typing.SupportsIndex, multiplier: typing.Any, zero_point: typing.SupportsInt | typing.SupportsIndex = 0, dtype: typing.Any) -> int:
        ...
    def max_pool(self, x: typing.SupportsInt | typing.SupportsIndex, kernel: typing.Any, stride: typing.Any, padding: typing.Any = (0, 0, 0, 0), dilation: typing.Any = (1, 1), ceil_mode: bool = False, layout: str = 'NCHW') -> int:
        ...
    def multiply(self, a: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex, a_scale: typing.Any, a_zero_point: typing.Any, b_scale: typing.Any, b_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, *, lo: typing.Any = None, hi: typing.Any = None) -> int:
        ...
    def nearest(self, x: typing.SupportsInt | typing.SupportsIndex, rows: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], columns: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> int:
        """
        Pixels of images (batch, height, width, channels) by their rows and columns.
        """
    def product(self, a: typing.SupportsInt | typing.SupportsIndex, b: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        a @ b of float32 arrays of 2 dimensions or more.
        """
    def quantize(self, x: typing.SupportsInt | typing.SupportsIndex, scale: typing.Any, zero_point: typing.Any, dtype: str, axis: typing.Any) -> int:
        ...
    def recurrent(self, op: typing.Any, x: typing.SupportsInt | typing.SupportsIndex, initial_h: typing.Any = None, initial_c: typing.Any = None) -> tuple[int, ...]:
        ...
    def reshape(self, x: typing.SupportsInt | typing.SupportsIndex, shape: typing.Any) -> int:
        """
        A view.
        """
    def rms_norm(self, x: typing.SupportsInt | typing.SupportsIndex, weight: typing.Any, bias: typing.Any, axis: typing.SupportsInt | typing.SupportsIndex, eps: typing.Any) -> int:
        ...
    def shape(self, x: typing.SupportsInt | typing.SupportsIndex) -> tuple[int, ...]:
        ...
    def slice(self, x: typing.SupportsInt | typing.SupportsIndex, axis: typing.SupportsInt | typing.SupportsIndex, start: typing.SupportsInt | typing.SupportsIndex, length: typing.SupportsInt | typing.SupportsIndex, step: typing.SupportsInt | typing.SupportsIndex = 1) -> int:
        """
        A view.
        """
    def softmax(self, x: typing.SupportsInt | typing.SupportsIndex, axis: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def square_root(self, x: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def transpose(self, x: typing.SupportsInt | typing.SupportsIndex, axes: typing.Any) -> int:
        """
        A view.
        """
    @property
    def steps(self) -> int:
        """
        How many steps compute something.
        """
def activation_table(name: str, x_scale: typing.Any, x_zero_point: typing.Any, x_dtype: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, *, alpha: typing.Any = None, beta: typing.Any = None) -> numpy.ndarray:
    """
    The (256,) codes of a function of one tensor, for `lookup`: identity, relu, clip (alpha to beta), leaky_relu (alpha, 0.01), elu (alpha, 1), hard_sigmoid (alpha, 0.2; beta, 0.5), hard_swish, sigmoid, silu, tanh, gelu, gelu_tanh.
    """
def add(a: typing.Any, b: typing.Any, a_scale: typing.Any, a_zero_point: typing.Any, b_scale: typing.Any, b_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, *, lo: typing.Any = None, hi: typing.Any = None, out: typing.Any = None) -> numpy.ndarray:
    """
    Codes of a + b, each an int8 or uint8 ndarray; they broadcast. `lo` and `hi` clip the sum, in real units.
    """
def argmax(x: typing.Any, axis: typing.SupportsInt | typing.SupportsIndex, out: typing.Any = None) -> numpy.ndarray:
    """
    int64 index of the first of the greatest codes along `axis`.
    """
def attention(q: typing.Any, k: typing.Any, v: typing.Any, mask: typing.Any, integers: bool, past: typing.Any, scale: typing.SupportsFloat | typing.SupportsIndex, out: typing.Any = None) -> numpy.ndarray:
    """
    softmax(scale * q k^T + mask) v. An operand is a float32 array, or codes with a scale and a zero point that have its axes, each of its length or of 1, and whether each row has its scale; mask: float32, added, or uint8, hiding where it is 0; past: None, or row i sees keys [0, past + i].
    """
def available_isas() -> list[str]:
    """
    The ISAs that this CPU and operating system support, best first.
    """
def average_pool(x: typing.Any, x_scale: typing.Any, x_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, kernel: typing.Any, stride: typing.Any = None, padding: typing.Any = (0, 0, 0, 0), ceil_mode: bool = False, count_include_pad: bool = False, layout: str = 'NCHW', out: typing.Any = None) -> numpy.ndarray:
    """
    Codes of the average under a window; kernel None: of the whole image.
    """
def cache_sizes() -> tuple[int, int, int]:
    """
    Bytes of the level 1 data, level 2 and level 3 caches; 0 where not known.
    """
def check_isa(name: str) -> None:
    """
    Raise ValueError unless `name` is an ISA that this machine can run.
    """
def clip(x: typing.Any, lo: typing.Any, hi: typing.Any, out: typing.Any = None) -> numpy.ndarray:
    """
    x > lo ? x : lo, then < hi ? that : hi, of float32 values; None: no bound. NaN for NaN.
    """
def concat(arrays: typing.Any, tables: typing.Any, axis: typing.SupportsInt | typing.SupportsIndex, out: typing.Any = None) -> numpy.ndarray:
    """
    8-bit arrays one after another along `axis`, each through its table of 256 codes (None: as they are).
    """
def cpu_features() -> str:
    """
    The instruction sets that CPU and operating system support, of those that matter here.
    """
def cpu_name() -> str:
    """
    The model name of the CPU.
    """
def dequantize(q: typing.Any, scale: typing.Any, zero_point: typing.Any, axis: typing.Any, out: typing.Any = None) -> numpy.ndarray:
    """
    float32(q - zero_point) * scale.
    """
def enable_contexts() -> None:
    """
    Read isa_context and threads_context in every call from now on.
    """
def float_average_pool(x: typing.Any, kernel: typing.Any, stride: typing.Any, padding: typing.Any = (0, 0, 0, 0), ceil_mode: bool = False, count_include_pad: bool = False) -> numpy.ndarray:
    """
    The mean under a window, by the taps inside the image, or inside its padding too.
    """
def float_function(name: str, x: typing.Any, out: typing.Any = None) -> numpy.ndarray:
    """
    exp, erf, tanh, sigmoid, silu, gelu or gelu_tanh of float32 values.
    """
def float_max_pool(x: typing.Any, kernel: typing.Any, stride: typing.Any, padding: typing.Any = (0, 0, 0, 0), ceil_mode: bool = False) -> numpy.ndarray:
    """
    The greatest value under a window of float32 images (batch, height, width, channels); NaN where there is one. As `max_pool`.
    """
def float_mean(x: typing.Any) -> numpy.ndarray:
    """
    The mean of each channel of float32 images (batch, height, width, channels), height and width 1, summed in 64 lanes.
    """
def fp_control() -> int:
    """
    The floating-point control register.
    """
def get_num_threads() -> int:
    """
    The number of threads that a call here uses.
    """
def group_norm(x: typing.Any, groups: typing.Any, weight: typing.Any, bias: typing.Any, eps: typing.Any, out: typing.Any = None) -> numpy.ndarray:
    """
    As layer_norm, over groups of channels (axis 1) and the axes after them; weight and bias are of the channels. groups None: each channel by itself.
    """
def isa() -> str:
    """
    The ISA that a call here uses.
    """
def known_isas() -> list[str]:
    """
    Every ISA compiled in, best first.
    """
def last_kernel() -> str:
    """
    "isa/kernel" of this thread's last call; "" before any.
    """
def layer_norm(x: typing.Any, weight: typing.Any, bias: typing.Any, axis: typing.Any, eps: typing.Any, residual: typing.Any = None, out_sum: typing.Any = None, codes: typing.Any = None, out: typing.Any = None) -> numpy.ndarray:
    """
    (x - mean) / sqrt(variance + eps) * weight + bias over the axes from `axis` on.
    """
def lookup(x: typing.Any, table: typing.Any, out: typing.Any = None) -> numpy.ndarray:
    """
    table[x] for each code, x as the byte it is; of the table's dtype.
    """
def matmul(a: numpy.ndarray, b: numpy.ndarray | PackedMatrix, *, a_zero_point: int | numpy.ndarray = 0, b_zero_point: int | numpy.ndarray = 0, bias: int | float | numpy.ndarray | None = None, multiplier: float | numpy.ndarray | None = None, zero_point: int = 0, clip: tuple[float, float] | None = None, dtype: typing.Any = 'int32', out: numpy.ndarray | None = None) -> numpy.ndarray:
    """
    Exact product of 8-bit arrays: ``sum_k (a - a_zero_point) * (b - b_zero_point)``.

    Parameters
    ----------
    a : ndarray of int8 or uint8, shape (..., M, K) or (K,)
        Any strides; read-only is fine.
    b : ndarray of int8 or uint8, shape (..., K, N) or (K,); or PackedMatrix
        Batch axes broadcast as in `numpy.matmul`. Pack weights once with `pack`.
    a_zero_point : int or ndarray that broadcasts to a.shape[:-1]
    b_zero_point : int or ndarray that broadcasts to b.shape[:-2] + (N,)
        In the range of the operand's dtype.
    bias : None, or one value or (N,) values
        int32, added to the sums; float32 where `dtype` is.
    multiplier : None, float or ndarray of shape (N,)
        Positive. 8-bit results need it: ``a_scale * b_scale / y_scale``; float32 results are multiplied
        by it (default 1).
    zero_point : int
        Of an 8-bit result.
    clip : tuple (lo, hi) or None
        Bounds of the codes of an 8-bit result, or of a float32 result (relu: ``(0, inf)``).
    dtype : "int32", "int64", "int8", "uint8" or "float32"
    out : ndarray or None
        Where the result goes, of its dtype and shape; shares no memory with `a` or `b`.

    Returns
    -------
    ndarray
        The same bits on every CPU, with any number of threads and any split of a batch.

    Raises
    ------
    OverflowError
        A result does not fit int32, which takes K > 33,025 (or a bias near 2**31); ask for int64.
    ValueError, TypeError
        What, got, expected.

    Notes
    -----
    The arithmetic is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (2018), equations 4 and 7, with a float32 multiplier. No path
    saturates at int16.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> a = np.full((1, 2), 255, np.uint8)
    >>> b = np.full((2, 1), 127, np.int8)
    >>> oc.matmul(a, b)
    array([[64770]], dtype=int32)
    """
def max_pool(x: typing.Any, kernel: typing.Any, stride: typing.Any, padding: typing.Any = (0, 0, 0, 0), dilation: typing.Any = (1, 1), ceil_mode: bool = False, layout: str = 'NCHW', out: typing.Any = None) -> numpy.ndarray:
    """
    The greatest code under a window. `padding` is (top, left, bottom, right) and never wins; `stride` None is the kernel's size.
    """
def measure_bandwidth(bytes: typing.SupportsInt | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex = 0.1) -> float:
    """
    Bytes a second of one thread that reads a buffer of that size over and over.
    """
def measure_peak(isa: str, seconds: typing.SupportsFloat | typing.SupportsIndex = 0.1) -> float:
    """
    Multiply-accumulates a second of a register-only loop of the ISA's dot product.
    """
def minmax(x: typing.Any, axis: int | None) -> tuple[numpy.ndarray, numpy.ndarray]:
    """
    Least and greatest value, of all or of each index along `axis`.
    """
def multiply(a: typing.Any, b: typing.Any, a_scale: typing.Any, a_zero_point: typing.Any, b_scale: typing.Any, b_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, *, lo: typing.Any = None, hi: typing.Any = None, out: typing.Any = None) -> numpy.ndarray:
    """
    Codes of a * b; as `add`.
    """
def pack(b: typing.Any) -> PackedMatrix:
    """
    Pack a (K, N) int8 or uint8 array for repeated products.

    Parameters
    ----------
    b : ndarray of int8 or uint8, shape (K, N)
        Any strides. It is copied: later writes to it change nothing.

    Returns
    -------
    PackedMatrix
        `b` for `matmul`: ``.shape``, ``.dtype``, ``.nbytes``, ``.isa``, ``.unpack()``. It pickles as
        the plain array and packs again for the CPU that loads it.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w = oc.pack(np.eye(3, dtype=np.int8))
    >>> oc.matmul(np.arange(3, dtype=np.uint8), w)
    array([0, 1, 2], dtype=int32)
    """
def quantize(x: typing.Any, scale: typing.Any, zero_point: typing.Any, dtype: str, axis: typing.Any, out: typing.Any = None) -> numpy.ndarray:
    """
    Codes of a float32 array: rint(x / scale) + zero_point, clamped.
    """
def quantize_rows(x: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """
    uint8 codes of each row by its own range, with scales and zero points.
    """
def quantize_symmetric_rows(x: typing.Any, codes: typing.Any, scale: typing.Any) -> None:
    """
    Rows of float32 to int8 codes with a scale each, by the greatest magnitude.
    """
def requantize(acc: typing.Any, multiplier: typing.Any, zero_point: typing.SupportsInt | typing.SupportsIndex = 0, *, bias: typing.Any = None, clip: typing.Any = None, dtype: typing.Any = 'uint8', axis: typing.Any = -1, out: typing.Any = None) -> numpy.ndarray:
    """
    Bring int32 sums to 8-bit codes: ``rint((acc + bias) * multiplier) + zero_point``.

    Parameters
    ----------
    acc : ndarray of int32
        Sums, any shape.
    multiplier : float or ndarray of shape () or (C,)
        ``x_scale * w_scale / y_scale``, positive; one for all or one a channel along `axis`.
    zero_point : int
        Of the result, in the range of `dtype`.
    bias : int, ndarray of int32 or None
        Added to the sums (modulo 2**32), one for all or one a channel.
    clip : tuple of int or None
        Bounds of the codes; a fused ReLU is ``(zero_point, 255)``.
    dtype : "uint8" or "int8"
    axis : int
        The channel axis.
    out : ndarray or None
        Where the codes go, of `dtype` and the shape of `acc`.

    Returns
    -------
    ndarray
        Codes, rounded half to even.

    Raises
    ------
    ValueError, TypeError
        What, got, expected.

    Notes
    -----
    Rule 4 of the arithmetic: the sum and the product are each rounded to float32; see Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (2018), equation 5.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.requantize(np.array([[100, -50]], np.int32), 0.1, 128)
    array([[138, 123]], dtype=uint8)
    """
def resize(x: typing.Any, size: typing.Any, mode: str, coordinates: str, rounding: str, x_scale: typing.Any, x_zero_point: typing.Any, out_scale: typing.Any, out_zero_point: typing.Any, out_dtype: typing.Any, layout: str = 'NCHW', out: typing.Any = None) -> numpy.ndarray:
    """
    Images of another size (height, width), 'nearest' or 'linear'; `coordinates` and `rounding` (of 'nearest' alone) are named as in ONNX Resize.
    """
def rms_norm(x: typing.Any, weight: typing.Any, bias: typing.Any, axis: typing.Any, eps: typing.Any, residual: typing.Any = None, out_sum: typing.Any = None, codes: typing.Any = None, out: typing.Any = None) -> numpy.ndarray:
    """
    x / sqrt(mean of squares + eps) * weight + bias over the axes from `axis` on.
    """
def rotate(x: typing.Any, cos: typing.Any, sin: typing.Any, position_ids: typing.Any, interleaved: bool, out: typing.Any) -> None:
    """
    Rotary embedding of x (batch, heads, tokens, head size) into out.
    """
def set_dots_per_thread(dots: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Work below which a product stays on one thread, in dot products a thread (for tests).
    """
def set_fp_control(value: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Write the floating-point control register (for tests).
    """
def set_num_threads(threads: int) -> None:
    """
    Set the process's number of threads.
    """
def softmax(x: typing.Any, axis: typing.Any, mask: typing.Any = None, codes: typing.Any = None, out: typing.Any = None) -> numpy.ndarray:
    """
    Softmax along `axis`; `mask` is added to x (float32), or keeps what it is not 0 for (uint8). codes: (scale, zero point, dtype) of 8-bit results.
    """
def usable_cores() -> int:
    """
    Cores that the affinity mask and the cgroup quota allow.
    """
DOTS_PER_THREAD: int = 48000
__version__: str
isa_context: _contextvars.ContextVar[str | None]
threads_context: _contextvars.ContextVar[int | None]
