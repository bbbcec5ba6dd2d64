// What the operations of this folder share: float32 and bfloat16 by AVX512, and matrices as AMX reads them.
//
// oneDNN's `brgemm` makes float32 C = A B; A has rows, and B has pairs of rows, (rows / 2, columns, 2).

#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

using at::BFloat16;
using at::native::cpublas::brgemm;

namespace {

constexpr int64_t LANES = 16;  // float32 values of a vector
constexpr int64_t STEP = 32;   // products that AMX adds up at once
constexpr float LOG2_E = 1.44269504088896341f;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// `count` values from the start of a cache line on.
template <class T>
class Array {
 public:
  explicit Array(int64_t count) : count(count), data(std::aligned_alloc(64, round_up(count * sizeof(T), 64))) {
    if (!data) throw std::bad_alloc();
  }
  Array(const Array&) = delete;
  ~Array() { std::free(data); }
  operator T*() const { return static_cast<T*>(data); }
  void fill(T value) const { std::fill_n(static_cast<T*>(data), count, value); }

 private:
  int64_t count;
  void* data;
};

inline __m512 load(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m512 widen(const BFloat16* x) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))); }
// Two vectors rounded to bfloat16, the first in the lower half.
inline __m512i round_both(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// 16 values, or 32, as bfloat16.
inline __m256i round_16(const BFloat16* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
inline __m256i round_16(const float* x) { return (__m256i)_mm512_cvtneps_pbh(load(x)); }
inline __m512i round_32(const BFloat16* x) { return _mm512_loadu_si512(x); }
inline __m512i round_32(const float* x) { return round_both(load(x), load(x + LANES)); }

inline void store(void* to, __m512i x) { _mm512_storeu_si512(to, x); }
inline void store_half(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }

// 2^x, right to 2e-7 of it; 0 below 2^-126, where the processor's own way through smaller numbers is slow.
inline __m512 power_of_2(__m512 x) {
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.f), _CMP_NLT_UQ);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(1.32646656e-3f);  // the polynomial whose largest error is least from -1/2 to 1/2
  for (const float c : {9.67151113e-3f, 5.55073395e-2f, 2.40222424e-1f, 6.93147004e-1f, 1.f})
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(c));
  return _mm512_maskz_scalef_ps(normal, y, whole);
}

// 16 values of one row, then 16 of the next: as 16 pairs.
inline __m512i in_pairs(__m512i rows) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), rows);
}

// 16 rows of 16 values of 4 bytes, transposed in place: by ones, twos, fours and eights.
inline void turn(__m512i (&x)[16]) {
  __m512i y[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
      x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
    }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
    for (int j = i; j < i + 4; ++j) {
      y[j] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0x88);
      y[j + 4] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0xdd);
    }
#pragma GCC unroll 16
  for (int j = 0; j < 8; ++j) {
    x[j] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88);
    x[j + 8] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0xdd);
  }
}

// LANES values of a place and of the next, in one vector; zeros where there is no place.
template <class T>
__m512i load_two(const T* x, int64_t stride, int64_t place, int64_t places) {
  const auto half = [&](int64_t at) { return at < places ? round_16(x + at * stride) : _mm256_setzero_si256(); };
  return _mm512_inserti64x4(_mm512_castsi256_si512(half(place)), half(place + 1), 1);
}

// x (places, K) to pairs along its places, (size / 2, K, 2): the right side of a product with x. Zeros behind.
void pack_along(const BFloat16* x, int64_t stride, int64_t places, int64_t K, int64_t size, BFloat16* to) {
  for (int64_t place = 0; place < size; place += 2)
    for (int64_t k = 0; k < K; k += LANES)
      store(to + place * K + 2 * k, in_pairs(load_two(x + k, stride, place, places)));
}

// x (places, K) to pairs along K, (K / 2, size, 2): the right side of a product with x transposed. Zeros behind.
void pack_across(const BFloat16* x, int64_t stride, int64_t places, int64_t K, int64_t size, BFloat16* to) {
  for (int64_t first = 0; first < size; first += LANES)
    for (int64_t k = 0; k < K; k += STEP) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i)
        rows[i] = first + i < places ? _mm512_loadu_si512(x + (first + i) * stride + k) : _mm512_setzero_si512();
      turn(rows);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) store(to + (k + 2 * i) * size + 2 * first, rows[i]);
    }
}

// x (places, K) transposed, (K, size), zeros behind: the left side of a product of x transposed.
void transpose(const BFloat16* x, int64_t stride, int64_t places, int64_t K, int64_t size, BFloat16* to) {
  for (int64_t first = 0; first < size; first += STEP)
    for (int64_t k = 0; k < K; k += LANES) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) rows[i] = in_pairs(load_two(x + k, stride, first + 2 * i, places));
      turn(rows);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) store(to + (k + i) * size + first, rows[i]);
    }
}

}  // namespace

// Whether oneDNN multiplies packed bfloat16 matrices by AMX here.
extern "C" bool has_amx() { return at::native::cpublas::could_pack(at::kBFloat16); }
