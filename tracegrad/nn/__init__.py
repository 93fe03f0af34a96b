"""Layers of the networks, in two layouts of features.

A feature gives every one of n *items* (nodes or edges) some irreps: for a degree l the components m = -l .. l, each
with C channels. Backbones store it in one of two layouts, with i the item, m the component and c the channel:

    component-first (QHNet)     x[l^2 + l + m, i, c]    one tensor [(L + 1)^2, n, C] for all degrees 0 .. L
    item-first (DeepH-E3)       x[k][i, l + m, c]       one tensor [n, 2l + 1, C_k] for each irrep k

In memory, from left to right and then from top to bottom:

    component-first, L = 1                          item-first, an irrep with l = 1
    l  m   item 0        item 1        ...          item   m = -1        m = 0         m = 1
    0  0   c0 c1 .. cC   c0 c1 .. cC                0      c0 c1 .. cC   c0 c1 .. cC   c0 c1 .. cC
    1 -1   c0 c1 .. cC   c0 c1 .. cC                1      c0 c1 .. cC   c0 c1 .. cC   c0 c1 .. cC
    1  0   c0 c1 .. cC   c0 c1 .. cC                ...
    1  1   c0 c1 .. cC   c0 c1 .. cC

In both, the channels are last and contiguous, so that a linear map over channels is one matrix product.
Component-first needs the same number of channels for every degree; all items of one component form one long row.
Item-first allows another number of channels for each irrep; the components of an item, which rotations mix, lie side
by side.

| folder or file      | contents                                                                             |
|---------------------|--------------------------------------------------------------------------------------|
| ``interface``       | what a backbone must provide, and the types of features                              |
| ``component_first`` | linear maps, gates, Clebsch-Gordan products and the expansion into blocks of QHNet   |
| ``item_first``      | edge frames, linear maps, edge products, norms and the expansion of DeepH-E3         |
| ``invariant``       | TraceGrad: invariants u, z and the gradient v; features are lists, component-first   |
| ``radial``          | radial functions of both backbones                                                   |

Files named ``*_kernel`` hold the C++ of a layer for CPUs and the code that calls it. In backward passes ``of_x`` is
the gradient of the loss with respect to x.
"""
