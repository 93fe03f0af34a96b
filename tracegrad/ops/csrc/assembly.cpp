// Dense matrices of molecules from their blocks [dim, dim]; spans are rows [first atom, number of atoms, first pair].
#include <algorithm>
#include <cstdint>
#include <vector>
typedef REAL real;

template <class Output>
static void assemble_all(int64_t begin, int64_t end, int64_t n, int64_t dim, const real *on_site, const real *pairs,
                         const int64_t *all_atoms, const int64_t *all_slots, const int64_t *spans,
                         const double *const *subtract, Output *all) {
  const int64_t size = dim * dim, tile = 16;
  std::vector<int64_t> starts;
  for (int64_t m = begin; m < end; ++m) {
    const int64_t first = spans[3 * m], atoms = spans[3 * m + 1], edge = spans[3 * m + 2];
    const int64_t *atom = all_atoms + m * n, *slot = all_slots + m * n;
    Output *out = all + m * n * n;
    starts.assign(1, 0);  // of runs of orbitals of one atom
    for (int64_t i = 1; i <= n; ++i)
      if (i == n || atom[i] != atom[i - 1]) starts.push_back(i);
    for (size_t right = 0; right + 1 < starts.size(); ++right)  // in the order of the blocks in memory
      for (size_t below = 0; below + 1 < starts.size(); ++below) {
        const int64_t src = atom[starts[right]], dst = atom[starts[below]];
        const real *block = dst == src ? on_site + (first + dst) * size
                                       : pairs + (edge + src * (atoms - 1) + dst - (dst > src)) * size;
        const int64_t first_column = starts[right], last_column = starts[right + 1];
        for (int64_t i = starts[below]; i < starts[below + 1]; ++i) {
          const real *row = block + slot[i] * dim;
          for (int64_t j = first_column; j < last_column; ++j) out[i * n + j] = row[slot[j]];
        }
      }
    if (!subtract) continue;
    for (int64_t below = 0; below < n; below += tile)
      for (int64_t right = 0; right <= below; right += tile)
        for (int64_t i = below; i < std::min(below + tile, n); ++i) {
          const double *row = subtract[m] + i * (i + 1) / 2;
          for (int64_t j = right; j < std::min(right + tile, i); ++j) {
            out[i * n + j] -= row[j];
            out[j * n + i] -= row[j];
          }
          if (below == right) out[i * n + i] -= row[i];
        }
  }
}

extern "C" void assemble(int64_t begin, int64_t end, int64_t n, int64_t dim, const real *on_site, const real *pairs,
                         const int64_t *atoms, const int64_t *slots, const int64_t *spans, const double *const *subtract,
                         void *out) {
  if (subtract)
    assemble_all(begin, end, n, dim, on_site, pairs, atoms, slots, spans, subtract, (double *)out);
  else
    assemble_all(begin, end, n, dim, on_site, pairs, atoms, slots, spans, subtract, (real *)out);
}
