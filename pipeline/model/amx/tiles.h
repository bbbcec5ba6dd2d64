// Products of matrices that are cut in tiles of 16 rows of 64 bytes, as AMX multiplies them, so that what it reads is
// side by side.
//
// A panel is 32 rows of a left side, or 32 columns of a right side; its steps, 32 products each, follow one another. A
// step is two tiles: each has 16 of the rows and 32 columns, or 16 pairs of rows and 16 of the columns. A block of sums
// is four tiles, 32 rows and 32 columns of float32. So a step of a left side is 32 rows of 32 values. Compiled behind
// vectors.h.

#include <immintrin.h>

namespace {

constexpr int64_t TILE = 512;    // bfloat16 values of a tile
constexpr int64_t BLOCK = 1024;  // float32 values of a block

// While it lives, its thread may multiply tiles.
class Tiles {
 public:
  Tiles() {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    std::fill_n(shape.bytes, 8, 64);
    std::fill_n(shape.rows, 8, 16);
    _tile_loadconfig(&shape);
  }
  Tiles(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }
};

inline void begin_block() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

inline void load_block(const float* sums) {
  asm volatile("" ::: "memory");
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, sums + 256, 64);
  _tile_loadd(2, sums + 512, 64);
  _tile_loadd(3, sums + 768, 64);
}

inline void store_block(float* sums) {
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
  asm volatile("" ::: "memory");
}

// A block of products of two panels.
struct Product {
  const BFloat16 *left, *right;
  int64_t steps;
  float* sums;
  bool adds;  // to the sums that are there
};

inline void multiply_step(const Product& product, int64_t step) {
  asm volatile("" ::: "memory");  // the compiler does not know what a tile reads
  const BFloat16 *left = product.left + step * 2 * TILE, *right = product.right + step * 2 * TILE;
  _tile_loadd(6, right, 64);
  _tile_loadd(4, left, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, right + TILE, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, left + TILE, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

inline void multiply(const Product& product) {
  product.adds ? load_block(product.sums) : begin_block();
  for (int64_t step = 0; step < product.steps; ++step) multiply_step(product, step);
  store_block(product.sums);
}

// Products that a thread makes step by step between other work, as the processor multiplies tiles beside it.
class Waiting {
 public:
  void push(const Product& product) {
    products.push_back(product);
    steps += product.steps;
  }
  int64_t left() const { return steps; }
  void advance(int64_t count) {
    for (count = std::min(count, steps), steps -= count; count > 0; --count) {
      const Product& product = products[first];
      if (step == 0) product.adds ? load_block(product.sums) : begin_block();
      multiply_step(product, step);
      if (++step < product.steps) continue;
      store_block(product.sums);
      step = 0;
      if (++first == products.size()) products.clear(), first = 0;
    }
  }
  void finish() { advance(steps); }

 private:
  std::vector<Product> products;
  size_t first = 0;
  int64_t step = 0, steps = 0;
};

// Where 16 values of a block are.
inline int64_t in_block(int64_t row, int64_t column) { return (row / 16 * 2 + column / 16) * 256 + row % 16 * 16; }

// Rows of x (count, K) to the panels of a left side, of `rows` rows; zeros behind.
void tile_rows(const BFloat16* x, int64_t stride, int64_t count, int64_t K, int64_t rows, BFloat16* to) {
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t k = 0; k < K; k += STEP) {
      const __m512i values = n < count ? round_32(x + n * stride + k) : _mm512_setzero_si512();
      store(to + n / STEP * STEP * K + k * STEP + n % STEP * STEP, values);
    }
}

// x (count, width) to the panels of a right side, of `rows` rows, zeros behind. Panels are `panel` values apart.
template <class T>
void tile_pairs(const T* x, int64_t stride, int64_t count, int64_t width, int64_t rows, int64_t panel, BFloat16* to) {
  for (int64_t n = 0; n < rows; n += 2)
    for (int64_t d = 0; d < width; d += LANES)
      store(to + d / STEP * panel + d % STEP / LANES * TILE + n / STEP * 2 * TILE + n % STEP * LANES,
            in_pairs(load_two(x + d, stride, n, count)));
}

// x (32, K) to a panel of a right side, of products with x transposed.
template <class T>
void tile_across(const T* x, int64_t stride, int64_t K, BFloat16* to) {
  for (int64_t k = 0; k < K; k += STEP)
    for (int64_t half = 0; half < 2; ++half) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) rows[i] = round_32(x + (half * 16 + i) * stride + k);
      turn(rows);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) store(to + k * STEP + half * TILE + i * STEP, rows[i]);
    }
}

// 32 columns of x (count, ...) to a panel of a left side, of products with x transposed: `rows` long, zeros behind.
inline void turn_rows(const BFloat16* x, int64_t stride, int64_t count, int64_t rows, BFloat16* to) {
  for (int64_t n = 0; n < rows; n += STEP) transpose(x + n * stride, stride, count - n, STEP, STEP, to + n * STEP);
}

// `row(n, low, high)` for the first `count` rows of a block.
template <class Row>
inline void for_each_row(const float* block, int64_t count, const Row& row) {
  for (int64_t n = 0; n < count; ++n) row(n, load(block + in_block(n, 0)), load(block + in_block(n, LANES)));
}

// Rows of a block, rounded, with 32 values of a bias (null: none).
inline void write_rounded(const float* block, const float* bias, int64_t count, BFloat16* to, int64_t stride) {
  const __m512 none = _mm512_setzero_ps(), more = bias ? load(bias) : none, most = bias ? load(bias + LANES) : none;
  for_each_row(block, count, [&](int64_t n, __m512 low, __m512 high) {
    store(to + n * stride, round_both(_mm512_add_ps(low, more), _mm512_add_ps(high, most)));
  });
}

// Rows of a block as they are.
inline void write_block(const float* block, int64_t count, float* to, int64_t stride) {
  for_each_row(block, count, [&](int64_t n, __m512 low, __m512 high) {
    _mm512_storeu_ps(to + n * stride, low);
    _mm512_storeu_ps(to + n * stride + LANES, high);
  });
}

// The sums of 32 columns of x (count, ...): the gradient of a bias.
inline void add_up_columns(const BFloat16* x, int64_t stride, int64_t count, float* to) {
  __m512 low = _mm512_setzero_ps(), high = low;
  for (int64_t n = 0; n < count; ++n) {
    low = _mm512_add_ps(low, widen(x + n * stride));
    high = _mm512_add_ps(high, widen(x + n * stride + LANES));
  }
  _mm512_storeu_ps(to, low);
  _mm512_storeu_ps(to + LANES, high);
}

}  // namespace
