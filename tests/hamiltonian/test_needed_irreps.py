from e3nn.o3 import Irreps

from tests.crystals import BASES
from tracegrad.backbones.deeph_e3 import DeepHE3
from tracegrad.hamiltonian.basis import OrbitalBasis
from tracegrad.hamiltonian.needed_irreps import needed_irreps


def test_s_and_p():
    # ss 0e; sp and ps 1o; pp 0e + 1e + 2e
    assert needed_irreps(OrbitalBasis.openmx(["S-s1p1"])) == Irreps("2x0e+2x1o+1x1e+1x2e")


def test_spin_multiplies_each_by_0e_and_1e_twice():
    # 0e x (0e + 1e), real and imaginary parts
    assert needed_irreps(OrbitalBasis.openmx(["S-s1"], spinful=True)) == Irreps("2x0e+2x1e")


@BASES
def test_they_are_what_a_network_predicts(basis):
    needed = needed_irreps(basis)
    assert needed.dim == basis.dim**2 * basis.spins
    network = DeepHE3(basis, irreps="4x0e+4x1o+4x2e", embed=8)
    assert needed == Irreps(network.expansion.irreps).sort().irreps.simplify()
