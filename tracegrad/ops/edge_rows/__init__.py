"""Rows by |m|: the layout in which features of edges are multiplied, with the maps to it and from it.

In the frame of its edge the tensor product with the harmonics of the edge couples a component m only to m, with one
matrix for each |m|. Features are therefore rearranged: the channels of all irreps that have the same |m| stand side
by side in one tensor of *rows*, which is multiplied at once. Rows g of one |m| have the shape

    [edges, 1, columns]     |m| = 0
    [edges, 2, columns]     |m| > 0, first -m, then +m

and hold channel c of irrep k, whose features are x_k[e, l + m, c], in the columns from ``first`` on, where
(g, first) is the `RowSlot` of irrep k and |m|:

    rows[g][e, 0, first + c] = x_k[e, l - |m|, c]
    rows[g][e, 1, first + c] = x_k[e, l + |m|, c]       |m| > 0 only

For example 0e with the channels a, b, c and 1o with the channels u, v; the index is m:

                column     0     1     2     3     4
    rows[0]   m =  0       a_0   b_0   c_0   u_0   v_0        slots of 0e: ((0, 0),)
    rows[1]   m = -1       u_-1  v_-1                         slots of 1o: ((0, 3), (1, 0))
              m = +1       u_+1  v_+1

`to_rows` fills the rows with features of edges and nodes, `from_rows` gates what the product returns and makes
features of edges, or sums at nodes, from it.
"""
