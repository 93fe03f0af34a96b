"""TraceGrad (Sections 4-5): invariant features z supervised by traces, and their gradient v = dz/df.

The gradient has a closed form, see `invariant.gram` and `InvariantMLP.value_and_gradient`, so that no autograd is
needed at inference. Features are lists of component-first tensors [2l + 1, items, channels], one for each irrep.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from e3nn.o3 import Irreps
from jaxtyping import Float
from torch import Tensor, nn

from tracegrad.errors import ConfigError
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.traces import BlockTraces, SpinTrace
from tracegrad.nn.edge_parts import run_layer
from tracegrad.nn.interface import ComponentFirstFeature
from tracegrad.nn.invariant.gram import FullInvariants, LowRankInvariants, ProjectedInvariants
from tracegrad.nn.invariant.invariant_mlp import NORM_EPS, InvariantMLP
from tracegrad.ops.low_rank.block import low_rank_block

RELATIVE_RESIDUAL = 0.2
LEAN_RANK, LEAN_WIDTH = 8, 64  # of ``lean``: channels of each irrep after the projection; C and hidden width
FORMS = {"full": FullInvariants, "low_rank": LowRankInvariants, "projected": ProjectedInvariants}


class TraceGradBlock(nn.Module):
    """g_nonlin of Eqs. 5-6: u = CGDecomp_ext(f x f, 0, W), z = s_nonlin(u), v = sum_c dz_c/df.

    Args:
        irreps: irreps of the feature f. All channels of equal degree and parity are paired, even if f lists their
            irrep several times.
        channels: C, width of u.
        width: width of z.
        w: form of W, a key of ``FORMS``: "full" is Eq. 6 literally, "low_rank" two linear maps to C channels and
            their inner products, "projected" a full W on few channels (see `tracegrad.nn.invariant.gram`).
        rank: terms of each channel of a low-rank W (None: 1); channels of each irrep of a projected W (None: 32).
        hidden: width of the hidden layers of s_nonlin.
        layers: number of Linears of s_nonlin (the paper's "three-layers": input, hidden, output).
        final: LayerNorm and SiLU also after the last Linear. A bare LayerNorm there would make v vanish at
            initialisation, because its outputs sum to a constant.
        final_bias: bias of the last Linear; without ``final`` it has no effect on v.
        zero_bias: start the bias of the first Linear of s_nonlin at 0. The LayerNorm after it then acts on W u only,
            so that z at first does not depend on the size of f.
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
        all_irreps = [ir for _, ir in irreps]
        unique = list(dict.fromkeys(all_irreps))
        # Positions in f of each irrep; `_merge` puts their channels side by side.
        self.groups = [[i for i, other in enumerate(all_irreps) if other == ir] for ir in unique]
        self.muls = [mul for mul, _ in irreps]
        merged = Irreps([(sum(self.muls[i] for i in group), all_irreps[group[0]]) for group in self.groups])
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
        """z without v."""
        x, _ = self.invariants(self._merge(f))
        return self.s_nonlin(x, self.invariants.mixing())

    def forward(
        self, f: ComponentFirstFeature, *, recompute: bool = False
    ) -> tuple[Float[Tensor, "n width"], ComponentFirstFeature]:
        """z and v.

        With ``recompute`` the backward pass computes both again, so that their intermediate results need no memory.
        A low-rank W does so on CPUs in any case, where it is no slower; ``recompute`` then makes its chunks smaller.
        """
        merged, form = self._merge(f), self.invariants
        if isinstance(form, LowRankInvariants) and not torch.is_autocast_enabled(merged[0].device.type):
            stages, scales = self.s_nonlin.tensors(), form.norms(merged)
            z, v = low_rank_block(
                merged, list(form.weights), stages, scales, form.rank, save_memory=recompute
            )
        else:
            z, v = run_layer(self._whole, merged, recompute=recompute)
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
            # The gradient of a split is a copy, which a single part does not need.
            pieces = merged.split([self.muls[i] for i in group], dim=-1) if len(group) > 1 else [merged]
            parts.update(zip(group, pieces, strict=True))
        return [parts[i] for i in range(len(self.muls))]


class TraceGrad(nn.Module):
    """All TraceGrad blocks of a model and the invariant decoder. Two switches select the arm of the ablation:

    | arm       | trace | grad | o     | loss_T |
    |-----------|-------|------|-------|--------|
    | none      | no    | no   | f     | no     |
    | trace     | yes   | no   | f     | yes    |
    | grad      | no    | yes  | f + v | no     |
    | tracegrad | yes   | yes  | f + v | yes    |

    No arm has parameters that it does not use.

    The paper defines u, s_nonlin, v and o. It does not mention initialisation, eps, and features of atoms that a
    backbone keeps separate from those of pairs: these are ``zero_bias``, ``norm_eps`` and ``apply_to``.
    conf/tracegrad/base.yaml sets them to what was best in measurements; the defaults here, and ``literal``, follow
    torch and the paper's words ("each SO(3)-equivariant edge feature").

    Args:
        feature_irreps: irreps of the K features of each site, from the backbone.
        basis: orbital basis of the blocks, which defines the traces.
        trace: decode z into the traces T.
        grad: add v to f.
        channels: C, width of u (1024).
        width: width of z; 0 means the number of basic blocks of a pair of atoms (the paper): 36 for QH9, 196 for
            s3p2d2 with spin.
        hidden: width of hidden layers (1024).
        encoder_layers: number of Linears of s_nonlin (2).
        encoder_final: LayerNorm and SiLU also after the last Linear of s_nonlin.
        decoder_layers: number of Linears of the invariant decoder (the paper's "four-layers": 3).
        decoder_norm: LayerNorm in the decoder.
        w, rank: form of W, see `TraceGradBlock`.
        apply_to: "edge" (the paper's words), or "edge_and_self" to refine and supervise also on-site features, if the
            backbone keeps them separate (QHNet; those of DeepH-E3 are among its edges).
        zero_bias: start the first bias of every s_nonlin at 0, see `TraceGradBlock`.
        norm_eps: eps of the LayerNorms of every s_nonlin. For the first features of QHNet the variance of W u is far
            below 1e-6.
        literal: the paper's words and the initialisation of torch: overrides three options with apply_to="edge",
            zero_bias=False and norm_eps=1e-6.
        lean: a small block that costs a fraction (docs/lean-tracegrad.md): overrides five options with blocks=1,
            w="projected", rank=8, channels=64 and hidden=64.
        residual: "sum" (o = f + v, the paper) or "relative" (o = f + 0.2 |f| / |v| v, with the norms of each item).
        gain: "none" (the paper) or "zero": what is added to f is multiplied by a learned factor for each of its
            irreps, which starts at 0, so that a pretrained backbone starts with unchanged outputs.
        recompute: in training, compute z and v again in the backward pass instead of storing intermediate results;
            a low-rank W does so on CPUs in any case, then in smaller chunks.
        last_v: whether the last block adds v as well (the paper); otherwise it only serves the decoder.
        blocks: how many of the K features of a site have a block, counted from the first; None: all (the paper). What
            the first block adds passes through all layers after it.
        spin_trace: definition of the traces of a spinful H, see `BlockTraces`.

    Raises:
        ConfigError: an option that is out of range.
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
        blocks: int | None = None,
        spin_trace: SpinTrace = "sum",
        recompute: bool = False,
        zero_bias: bool = False,
        norm_eps: float = NORM_EPS,
        literal: bool = False,
        lean: bool = False,
    ):
        super().__init__()
        if lean:
            w, rank, channels, hidden, blocks = "projected", LEAN_RANK, LEAN_WIDTH, LEAN_WIDTH, 1
        if literal:
            apply_to, zero_bias, norm_eps = "edge", False, NORM_EPS
        least = {
            "channels": (channels, 1),
            "width": (width, 0),
            "hidden": (hidden, 1),
            "encoder_layers": (encoder_layers, 1),
            "decoder_layers": (decoder_layers, 1),
            "rank": (1 if rank is None else rank, 1),
            "blocks": (1 if blocks is None else blocks, 1),
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
        self.trace, self.grad, self.lean = trace, grad, lean
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
            count = len(irreps) if blocks is None else blocks
            if count > len(irreps):
                raise ConfigError(
                    f"tracegrad.blocks is {blocks}, but the backbone refines {len(irreps)} features; give no more"
                )
            self.gradients[site] = [
                grad and k < count and (last_v or k < len(irreps) - 1) for k in range(len(irreps))
            ]
            made = [
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
                for ir, used in zip(irreps[:count], self.gradients[site], strict=False)
                if trace or used  # a block with neither v nor a decoder would be unused
            ]
            self.blocks[site] = cast(Sequence[TraceGradBlock], nn.ModuleList(made))
            if gain == "zero" and grad:
                sizes = [len(ir) for ir, used in zip(irreps, self.gradients[site], strict=True) if used]
                self.gains[site] = cast(Sequence[Tensor], nn.ParameterList(map(torch.zeros, sizes)))
            if trace:
                widths = [width * count, *[hidden] * (decoder_layers - 1), self.labels.count]
                self.decoders[site] = InvariantMLP(widths, norm=decoder_norm)

    def refine(
        self, site: str, k: int, f: ComponentFirstFeature, *, need_z: bool
    ) -> tuple[ComponentFirstFeature, Float[Tensor, "n width"] | None]:
        """o, and z where it is computed.

        Args:
            site: "edge" or "self".
            k: which of the K features of the site.
            f: the feature.
            need_z: if not set, encoders that only serve the decoder are skipped, and z may be None.
        """
        if site not in self.blocks or k >= len(self.blocks[site]):
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
        # If f or v is zero, nothing is added, and the gradient is zero instead of 0/0.
        present = (size_f > 0) & (size_v > 0)
        quotient = torch.where(present, size_f / torch.where(present, size_v, 1.0), 1.0)
        ratio = torch.where(present, RELATIVE_RESIDUAL * quotient.sqrt(), 0.0)
        return [a + ratio[:, None] * b for a, b in zip(f, scaled, strict=True)]
