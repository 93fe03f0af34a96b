"""TraceGrad (Sections 4-5): invariant features z supervised by traces, and their gradient v = dz/df.

The gradient is computed in closed form, see `invariant.gram` and `InvariantMLP.value_and_gradient`: nothing
here needs autograd at inference.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.traces import BlockTraces, SpinTrace
from tracegrad.nn.interface import ComponentFirstFeature
from tracegrad.nn.invariant.gram import FullInvariants, LowRankInvariants, ProjectedInvariants
from tracegrad.nn.invariant.invariant_mlp import NORM_EPS, InvariantMLP
from tracegrad.nn.invariant.low_rank_block import low_rank_block
from tracegrad.numerics import native

RELATIVE_RESIDUAL = 0.2
FORMS = {"full": FullInvariants, "low_rank": LowRankInvariants, "projected": ProjectedInvariants}


class TraceGradBlock(nn.Module):
    """g_nonlin of Eqs. 5-6: u = CGDecomp_ext(f x f, 0, W), z = s_nonlin(u), v = sum_c dz_c/df.

    Args:
        irreps: irreps of the feature f. Channels of equal degree and parity are paired, wherever they stand.
        channels: C, width of u.
        width: width of z.
        w: form of W, a key of ``FORMS``: "full" is Eq. 6 literally, "low_rank" two linear maps to C channels and
            their inner products, "projected" a full W on few channels (see `tracegrad.nn.invariant.gram`).
        rank: terms per channel of a low-rank W (None: 1); channels per irrep of a projected W (None: 32).
        hidden: width of the hidden layers of s_nonlin.
        layers: Linears of s_nonlin (the paper's "three-layers": input, hidden, output).
        final: LayerNorm and SiLU after the last Linear too. A bare LayerNorm there would make v vanish at
            initialisation, because its outputs sum to a constant.
        final_bias: bias of the last Linear; without ``final`` it has no effect on v.
        zero_bias: start the bias of the first Linear of s_nonlin at 0. The LayerNorm after it then acts on W u alone,
            whatever the size of f.
        eps: of the LayerNorms of s_nonlin.
    """

    def __init__(
        self,
        irreps: Irreps,
        channels: int,
        width: int,
        *,
        w: Literal["full", "low_rank", "projected"] = "low_rank",
        rank: int | None = None,
        hidden: int = 1024,
        layers: int = 2,
        final: bool = True,
        final_bias: bool = True,
        zero_bias: bool = False,
        eps: float = NORM_EPS,
    ):
        super().__init__()
        kinds = [ir for _, ir in irreps]
        unique = list(dict.fromkeys(kinds))
        self.groups = [[i for i, ir in enumerate(kinds) if ir == kind] for kind in unique]
        self.muls = [mul for mul, _ in irreps]
        merged = Irreps([(sum(self.muls[i] for i in group), kinds[group[0]]) for group in self.groups])
        if w not in FORMS:
            raise ConfigError(f"tracegrad.w is {w!r}; choose one of {list(FORMS)}")
        if rank is not None and w == "full":
            raise ConfigError(
                f"tracegrad.rank is {rank}, but tracegrad.w=full has none; set tracegrad.rank=null"
            )
        self.invariants = FORMS[w](merged, channels, **({} if rank is None else {"rank": rank}))
        widths = [channels, *[hidden] * (layers - 1), width]
        self.s_nonlin = InvariantMLP(widths, final=final, final_bias=final_bias, zero_bias=zero_bias, eps=eps)

    def encode(self, f: ComponentFirstFeature) -> Float[Tensor, "n width"]:
        """z alone."""
        x, _ = self.invariants(self._merge(f))
        return self.s_nonlin(x, self.invariants.mixing())

    def forward(
        self, f: ComponentFirstFeature, *, recompute: bool = False
    ) -> tuple[Float[Tensor, "n width"], ComponentFirstFeature]:
        """z and v; ``recompute`` makes them again for the gradient instead of storing what it needs.

        A low-rank W does so on every CPU, where it is no slower; there it takes smaller chunks instead.
        """
        recorded = torch.is_grad_enabled()
        merged = self._merge(f)
        in_chunks = (
            isinstance(self.invariants, LowRankInvariants)
            and (recompute or not recorded or merged[0].device.type == "cpu")
            and native.enabled()
            and not torch.is_autocast_enabled(merged[0].device.type)
        )
        if in_chunks:
            invariants = cast(LowRankInvariants, self.invariants)
            z, v = low_rank_block(invariants, self.s_nonlin, merged, save_memory=recompute)
        elif recompute and recorded:
            z, v = checkpoint(self._whole, merged, use_reentrant=False)
        else:
            z, v = self._whole(merged)
        return z, self._unmerge(v)

    def _whole(self, merged: ComponentFirstFeature) -> tuple[Tensor, ComponentFirstFeature]:
        x, saved = self.invariants(merged)
        z, g = self.s_nonlin.value_and_gradient(x, self.invariants.mixing())
        return z, self.invariants.pull_back(merged, saved, g)

    def _merge(self, f: ComponentFirstFeature) -> ComponentFirstFeature:
        return [f[g[0]] if len(g) == 1 else torch.cat([f[i] for i in g], dim=-1) for g in self.groups]

    def _unmerge(self, v: ComponentFirstFeature) -> ComponentFirstFeature:
        parts: dict[int, Tensor] = {}
        for group, merged in zip(self.groups, v, strict=True):
            pieces = merged.split([self.muls[i] for i in group], dim=-1)
            parts.update(zip(group, pieces, strict=True))
        return [parts[i] for i in range(len(self.muls))]


class TraceGrad(nn.Module):
    """All TraceGrad blocks of a model and the invariant decoder; the switches make the arms of the ablation.

    | arm       | trace | grad | o     | loss_T |
    |-----------|-------|------|-------|--------|
    | none      | no    | no   | f     | no     |
    | trace     | yes   | no   | f     | yes    |
    | grad      | no    | yes  | f + v | no     |
    | tracegrad | yes   | yes  | f + v | yes    |

    No arm holds a parameter that it does not use.

    The paper fixes u, s_nonlin, v and o and says nothing of initialisation, of eps and of features of atoms that a
    backbone keeps apart from those of pairs. ``zero_bias``, ``norm_eps`` and ``apply_to`` are our readings of these,
    which conf/tracegrad/base.yaml sets as measured to be best; the defaults here, and ``literal``, are those
    of torch and of the paper's words ("each SO(3)-equivariant edge feature").

    Args:
        feature_irreps: irreps of the K features of each site, from the backbone.
        basis: orbital basis of the blocks, which gives the traces.
        trace: decode z into the traces T.
        grad: add v to f.
        channels: C, width of u (1024).
        width: width of z; 0 means the number of basic blocks of a pair of atoms (the paper): 36 for QH9, 196 for
            s3p2d2 with spin.
        hidden: width of hidden layers (1024).
        encoder_layers: Linears of s_nonlin (2).
        encoder_final: LayerNorm and SiLU after the last Linear of s_nonlin.
        decoder_layers: Linears of the invariant decoder (the paper's "four-layers": 3).
        decoder_norm: LayerNorm in the decoder.
        w, rank: form of W, see `TraceGradBlock`.
        apply_to: "edge" (the paper's words), or "edge_and_self" to refine and supervise on-site features, too, where
            the backbone keeps them apart (QHNet; DeepH-E3 has them among its edges).
        zero_bias: start the first bias of every s_nonlin at 0, see `TraceGradBlock`.
        norm_eps: eps of the LayerNorms of every s_nonlin. QHNet's first features make a W u whose variance is far
            below 1e-6.
        literal: the paper's words and torch's initialisation instead of our readings: apply_to="edge",
            zero_bias=False and norm_eps=1e-6, whatever these three say.
        residual: "sum" (o = f + v, the paper) or "relative" (o = f + 0.2 |f| / |v| v, norms per item).
        gain: "none" (the paper) or "zero": what is added to f is multiplied by a learned factor for each of its
            irreps, 0 at first, so that a backbone which is trained already starts with its own outputs.
        recompute: in training, compute z and v again for the gradient instead of storing what it needs; a low-rank W
            does so on CPUs in any case, but then in smaller chunks.
        last_v: whether the last block adds v as well (the paper); otherwise it only feeds the decoder.
        spin_trace: the traces of a spinful H, see `BlockTraces`.
    """

    def __init__(
        self,
        feature_irreps: Mapping[str, list[Irreps]],
        basis: OrbitalBasis,
        *,
        trace: bool,
        grad: bool,
        channels: int = 1024,
        width: int = 0,
        hidden: int = 1024,
        encoder_layers: int = 2,
        encoder_final: bool = True,
        decoder_layers: int = 3,
        decoder_norm: bool = True,
        w: Literal["full", "low_rank", "projected"] = "low_rank",
        rank: int | None = None,
        apply_to: Literal["edge", "edge_and_self"] = "edge",
        residual: Literal["sum", "relative"] = "sum",
        gain: Literal["none", "zero"] = "none",
        last_v: bool = True,
        spin_trace: SpinTrace = "sum",
        recompute: bool = False,
        zero_bias: bool = False,
        norm_eps: float = NORM_EPS,
        literal: bool = False,
    ):
        super().__init__()
        if literal:
            apply_to, zero_bias, norm_eps = "edge", False, NORM_EPS
        least = {
            "channels": (channels, 1),
            "width": (width, 0),
            "hidden": (hidden, 1),
            "encoder_layers": (encoder_layers, 1),
            "decoder_layers": (decoder_layers, 1),
            "rank": (1 if rank is None else rank, 1),
        }
        for name, (value, minimum) in least.items():
            if not isinstance(value, int) or value < minimum:
                raise ConfigError(f"tracegrad.{name} is {value!r}; give a whole number >= {minimum}")
        if apply_to not in ("edge", "edge_and_self"):
            raise ConfigError(f"tracegrad.apply_to is {apply_to!r}; choose edge or edge_and_self")
        if not isinstance(norm_eps, int | float) or not 0 < norm_eps < 1:
            raise ConfigError(f"tracegrad.norm_eps is {norm_eps!r}; give a number between 0 and 1")
        if residual not in ("sum", "relative"):
            raise ConfigError(f"tracegrad.residual is {residual!r}; choose sum or relative")
        if gain not in ("none", "zero"):
            raise ConfigError(f"tracegrad.gain is {gain!r}; choose none or zero")
        self.trace, self.grad = trace, grad
        self.residual, self.recompute = residual, recompute
        self.labels = BlockTraces(basis, spin_trace)
        width = width or len(basis.union) ** 2
        sites = [site for site in ("edge", "self") if site in feature_irreps]
        if apply_to == "edge":
            sites = ["edge"]
        self.blocks = cast(dict[str, Sequence[TraceGradBlock]], nn.ModuleDict())
        self.decoders = cast(dict[str, InvariantMLP], nn.ModuleDict())
        self.gains = cast(dict[str, Sequence[Tensor]], nn.ModuleDict())
        self.gradients: dict[str, list[bool]] = {}
        for site in sites:
            irreps = feature_irreps[site]
            if not (trace or grad):
                continue
            self.gradients[site] = [grad and (last_v or k < len(irreps) - 1) for k in range(len(irreps))]
            blocks = [
                TraceGradBlock(
                    ir,
                    channels,
                    width,
                    w=w,
                    rank=rank,
                    hidden=hidden,
                    layers=encoder_layers,
                    final=encoder_final,
                    final_bias=encoder_final or trace,
                    zero_bias=zero_bias,
                    eps=norm_eps,
                )
                for ir, used in zip(irreps, self.gradients[site], strict=True)
                if trace or used  # a block without v and without a decoder would be idle
            ]
            self.blocks[site] = cast(Sequence[TraceGradBlock], nn.ModuleList(blocks))
            if gain == "zero" and grad:
                sizes = [len(ir) for ir, used in zip(irreps, self.gradients[site], strict=True) if used]
                self.gains[site] = cast(Sequence[Tensor], nn.ParameterList(map(torch.zeros, sizes)))
            if trace:
                widths = [width * len(irreps), *[hidden] * (decoder_layers - 1), self.labels.count]
                self.decoders[site] = InvariantMLP(widths, norm=decoder_norm)

    def refine(
        self, site: str, k: int, f: ComponentFirstFeature, *, need_z: bool
    ) -> tuple[ComponentFirstFeature, Float[Tensor, "n width"] | None]:
        """o, and z where it is computed; ``need_z=False`` skips encoders that only feed the decoder."""
        if site not in self.blocks:
            return f, None
        if self.gradients[site][k]:
            block = self.blocks[site][k]
            z, v = block(f, recompute=self.recompute)
            return self._add(f, v, self.gains[site][k] if site in self.gains else None), z
        if self.trace and need_z:
            return f, self.blocks[site][k].encode(f)
        return f, None

    def decode(self, z: Mapping[str, list[Float[Tensor, "_ width"]]]) -> dict[str, Float[Tensor, "_ labels"]]:
        """Predicted traces of each supervised site in the order of ``labels``, from z = [z_1 .. z_K]."""
        return {site: decoder(torch.cat(z[site], dim=-1)) for site, decoder in self.decoders.items()}

    def _add(
        self, f: ComponentFirstFeature, v: ComponentFirstFeature, gain: Float[Tensor, " irreps"] | None
    ) -> ComponentFirstFeature:
        scaled = v if gain is None else [g * b for g, b in zip(gain, v, strict=True)]
        if self.residual == "sum":
            return [a + b for a, b in zip(f, scaled, strict=True)]
        size_f, size_v = (
            torch.stack([part.square().sum((0, 2)) for part in feature]).sum(0) for feature in (f, v)
        )
        # A vanishing f or v adds nothing and has a zero gradient instead of 0/0.
        present = (size_f > 0) & (size_v > 0)
        quotient = torch.where(present, size_f / torch.where(present, size_v, 1.0), 1.0)
        ratio = torch.where(present, RELATIVE_RESIDUAL * quotient.sqrt(), 0.0)
        return [a + ratio[:, None] * b for a, b in zip(f, scaled, strict=True)]
