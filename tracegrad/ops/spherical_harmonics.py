"""The operator of real spherical harmonics of all degrees, by a recursion over degrees:

Y_0 = 1,  Y_1 = sqrt(3) (y, z, x) / r,  Y_l = N_l C^{l-1,1,l}(Y_{l-1}, Y_1),  with sum over m of Y_lm^2 = 2l + 1
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tracegrad.numerics.constants import Constant
from tracegrad.numerics.precision import full_precision
from tracegrad.numerics.wigner_3j import wigner_3j
from tracegrad.ops import native
from tracegrad.ops.gpu import kernel
from tracegrad.ops.operator import Operator
from tracegrad.ops.shapes import check_shapes, size

LEAST = 1e-12  # of a length, as in torch's `normalize`
BLOCK = 128  # vectors of a Triton program
FUNCTIONS = (native.Function("forward", "pp" + "ppppiiiii"), native.Function("backward", "ppp" + "ppppiiiii"))


@full_precision
def spherical_harmonics(vectors: Float[Tensor, "n 3"], lmax: int) -> Float[Tensor, "m n"]:
    """Real spherical harmonics of the directions of ``vectors`` (x, y, z), with sum over m of Y_lm^2 = 2l + 1.

    The zero vector gives 1 for degree 0 and 0 above.
    """
    return SPHERICAL_HARMONICS(vectors, lmax)


@lru_cache(maxsize=16)
def _coupling(degree: int) -> Constant:
    """N_l C^{l-1,1,l} as a matrix [m3, m1 m2]; N_l follows from the values along z, Y_l0 = sqrt(2l + 1)."""
    table = wigner_3j(degree - 1, 1, degree)
    along_z = table[degree - 1, 1, degree] * math.sqrt(3 * (2 * degree - 1) / (2 * degree + 1))
    return Constant((table / along_z).permute(2, 0, 1).flatten(1))


def _plain(vectors: Tensor, lmax: int) -> Tensor:
    x, y, z = (normalize(vectors, dim=1, eps=LEAST) * math.sqrt(3)).unbind(1)
    first = torch.stack([y, z, x])
    parts = [torch.ones_like(first[:1]), first][: lmax + 1]
    for degree in range(2, lmax + 1):
        products = parts[-1][:, None] * first
        parts.append(_coupling(degree)(vectors) @ products.flatten(0, 1))
    return torch.cat(parts)


def _outputs(vectors: Tensor, lmax: int) -> Tensor:
    return vectors.new_empty((lmax + 1) ** 2, vectors.shape[0])


def _check(vectors: Tensor, lmax: int) -> None:
    check_shapes("spherical harmonics", vectors=(vectors, (size(vectors, 0), 3)))


@lru_cache(maxsize=16)
def _entries(lmax: int) -> list[tuple[int, int, int, float]]:
    """Coefficients of the recursion that are not zero: component of Y_{l-1}, of Y_1 and of Y_l, and the value."""
    exact = torch.empty(0, dtype=torch.float64)
    return [
        ((degree - 1) ** 2 + m1, 1 + m2, degree**2 + m3, value)
        for degree in range(2, lmax + 1)
        for m3, row in enumerate(_coupling(degree)(exact).view(2 * degree + 1, -1, 3).tolist())
        for m1, pair in enumerate(row)
        for m2, value in enumerate(pair)
        if abs(value) > 1e-12
    ]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _table(lmax: int) -> tuple[Tensor, Constant]:
    entries = torch.tensor(_entries(lmax), dtype=torch.float64).view(-1, 4)
    return entries[:, :3].T.long().contiguous(), Constant(entries[:, 3].clone())


def _by_kernel(name: str, lmax: int, *tensors: Tensor) -> bool:
    vectors = tensors[-2]
    library = native.file_library("spherical_harmonics.cpp", vectors.dtype, *FUNCTIONS)
    if library is None:
        return False
    components, exact = _table(lmax)
    values, n = exact(vectors), len(vectors)
    addresses = [native.pointer(x) for x in (*tensors, *components, values)]

    def share(first: int, last: int) -> None:
        getattr(library, name)(*addresses, len(values), (lmax + 1) ** 2, n, first, last)

    native.in_threads(share, n, 6 * n * len(values))
    return True


def _on_cpu(vectors: Tensor, lmax: int) -> Tensor | None:
    out = _outputs(vectors, lmax)
    return out if _by_kernel("forward", lmax, vectors.contiguous(), out) else None


def _gradient_on_cpu(
    gradients: Sequence[Tensor], vectors: Tensor, lmax: int, needed: Sequence[bool]
) -> list[Tensor] | None:
    vectors, made = vectors.contiguous(), vectors.new_empty(vectors.shape)
    return [made] if _by_kernel("backward", lmax, gradients[0].contiguous(), vectors, made) else None


@lru_cache(maxsize=16)
def _source(lmax: int, name: str) -> str:
    """Source of the kernel of the values, or of the gradient."""
    lines = [
        f"def {name}(V, G, RESULT, n_count, ROOT_3: tl.constexpr, LEAST: tl.constexpr, BLOCK: tl.constexpr):",
        "    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        "    here = at < n_count",
        "    n = n_count.to(tl.int64)",
        *(f"    v{d} = tl.load(V + 3 * at + {d}, mask=here, other=0.0)" for d in range(3)),
        "    length = tl.sqrt(v0 * v0 + v1 * v1 + v2 * v2)",
        "    divisor = tl.where(length < LEAST, LEAST, length).to(V.dtype.element_ty)",
        "    y0 = 0.0 * v0 + 1.0",
        *(f"    y{1 + d} = ROOT_3 * v{(d + 1) % 3} / divisor" for d in range(3)),
    ]
    sums: dict[int, list[str]] = {}
    for low, one, out, value in _entries(lmax):
        sums.setdefault(out, []).append(f"{value!r} * y{low} * y{one}")
    lines += [f"    y{out} = {' + '.join(terms)}" for out, terms in sums.items()]
    components = range((lmax + 1) ** 2)
    if name == "forward":
        lines += [f"    tl.store(RESULT + {k} * n + at, y{k}, mask=here)" for k in components]
        return "\n".join(lines) + "\n"
    lines += [f"    g{k} = tl.load(G + {k} * n + at, mask=here, other=0.0)" for k in components]
    for low, one, out, value in reversed(_entries(lmax)):
        lines.append(f"    g{low} += {value!r} * y{one} * g{out}")
        lines.append(f"    g{one} += {value!r} * y{low} * g{out}")
    lines += [
        "    along = tl.where(length < LEAST, 0.0, g1 * y1 + g2 * y2 + g3 * y3) / ROOT_3"
        if lmax
        else "    g1, g2, g3, along = 0.0 * v0, 0.0 * v0, 0.0 * v0, 0.0 * v0",
        *(
            line
            for d in range(3)
            for line in (
                f"    total = (ROOT_3 * g{1 + d} - along * y{1 + d}) / divisor",
                f"    tl.store(RESULT + 3 * at + {(d + 1) % 3}, total, mask=here)",
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def _by_triton(name: str, lmax: int, vectors: Tensor, gradient: Tensor | None, result: Tensor) -> Tensor:
    n = len(vectors)
    if n:
        run = kernel(_source(lmax, name), name)[(-(-n // BLOCK),)]
        gradient = None if gradient is None else gradient.contiguous()
        run(vectors.contiguous(), gradient, result, n, ROOT_3=math.sqrt(3), LEAST=LEAST, BLOCK=BLOCK)
    return result


def _on_gpu(vectors: Tensor, lmax: int) -> Tensor:
    return _by_triton("forward", lmax, vectors, None, _outputs(vectors, lmax))


def _gradient_on_gpu(
    gradients: Sequence[Tensor], vectors: Tensor, lmax: int, needed: Sequence[bool]
) -> list[Tensor]:
    return [_by_triton("backward", lmax, vectors, gradients[0], vectors.new_empty(vectors.shape))]


SPHERICAL_HARMONICS = Operator(
    "spherical_harmonics", "Tensor vectors, int lmax", _plain, _outputs, check=_check
)
SPHERICAL_HARMONICS.register("CPU", _on_cpu, _gradient_on_cpu)
SPHERICAL_HARMONICS.register("CUDA", _on_gpu, _gradient_on_gpu)
