// A feed-forward part and its gradient. Interface, formulas and legend: feed_forward.py. Compiled behind vectors.h and
// tiles.h.
//
// Forward, a thread takes some tokens at a time, whose inner values stay in the processor's cache. Backward, all
// threads work on the same tokens: each has some of the inner values, so that each gradient of a weight is one thread's
// and added up in one order, and then some of the tokens, for the gradient of x.

namespace {
constexpr int64_t LAYERS = GATED ? 2 : 1;
constexpr int64_t PART = 256;                            // tokens that are worked on at a time
enum Activation { RELU, RELU2, GELU, GELU_TANH, SILU };  // as ACTIVATIONS in Python
}  // namespace

// A matrix and what is added to its products; null: no bias. Mirrored in Python.
struct Layer {
  const float *weight, *bias;
  float *dweight, *dbias;
};

// What is asked for. Mirrored in Python.
struct Call {
  int64_t tokens, size, inner, threads;  // N, D, F
  Layer up, gate, down;                  // (F, D), (F, D), (D, F)
  const BFloat16* x;                     // (N, D)
  BFloat16 *kept_up, *kept_gate;         // (F / 32, N up to a 32, 32): what the inner layers say
  BFloat16* y;                           // (N, D)
  const BFloat16* dy;
  BFloat16* dx;

  int64_t padded() const { return round_up(tokens, STEP); }
  const Layer& layer(int64_t i) const { return i == 0 ? up : gate; }
  BFloat16* kept(int64_t i, int64_t f, int64_t n) const {
    return (i == 0 ? kept_up : kept_gate) + f * padded() + n * STEP;
  }
};

namespace {

inline __m512 constant(float x) { return _mm512_set1_ps(x); }

inline __m512 inverse(__m512 x) {  // one step by Newton from 14 bits: within 2e-7 of it
  const __m512 guess = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(guess, _mm512_fnmadd_ps(x, guess, constant(2.f)));
}

inline __m512 sigmoid(__m512 x) {  // at most 2^126, whose inverse is not 0
  const __m512 power = power_of_2(_mm512_min_ps(constant(126.f), _mm512_mul_ps(x, constant(-LOG2_E))));
  return inverse(_mm512_add_ps(constant(1.f), power));
}

struct Share {
  __m512 share, slope;  // of x, and d(share x) / dx
};

inline Share share_of(__m512 x) {
  const __m512 one = constant(1.f), square = _mm512_mul_ps(x, x);
  if constexpr (ACTIVATION == RELU || ACTIVATION == RELU2) {
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ);
    const __m512 slope = ACTIVATION == RELU ? one : _mm512_add_ps(x, x);
    return {_mm512_maskz_mov_ps(positive, ACTIVATION == RELU ? one : x), _mm512_maskz_mov_ps(positive, slope)};
  } else if constexpr (ACTIVATION == SILU) {
    const __m512 share = sigmoid(x), left = _mm512_sub_ps(one, share);
    return {share, _mm512_mul_ps(share, _mm512_fmadd_ps(x, left, one))};
  } else if constexpr (ACTIVATION == GELU_TANH) {
    const __m512 root = constant(1.5957691216f), inner = constant(0.044715f);  // sqrt(8 / pi)
    const __m512 share = sigmoid(_mm512_mul_ps(_mm512_mul_ps(root, x), _mm512_fmadd_ps(inner, square, one)));
    const __m512 du = _mm512_mul_ps(root, _mm512_fmadd_ps(constant(3 * 0.044715f), square, one));
    const __m512 left = _mm512_mul_ps(x, _mm512_sub_ps(one, share));
    return {share, _mm512_mul_ps(share, _mm512_fmadd_ps(left, du, one))};
  } else {  // by the polynomial of pipeline/model/activations.py
    const __m512 power = power_of_2(_mm512_mul_ps(square, constant(-0.5f * LOG2_E)));
    const __m512 t = inverse(_mm512_fmadd_ps(constant(0.3275911f * 0.70710678f), _mm512_abs_ps(x), one));
    __m512 tail = constant(1.061405429f);
    for (const float a : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
      tail = _mm512_fmadd_ps(tail, t, constant(a));
    tail = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(constant(0.5f), t), tail), power);
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 share = _mm512_mask_sub_ps(tail, _knot_mask16(negative), one, tail);
    return {share, _mm512_fmadd_ps(_mm512_mul_ps(x, constant(0.3989422804f)), power, share)};  // 1 / sqrt(2 pi)
  }
}

inline __m512 add_bias(__m512 x, const float* bias, int64_t i) {
  return bias ? _mm512_add_ps(x, load(bias + i)) : x;
}

// What the inner layers say of 32 tokens, 32 values each: kept, and made what the last layer reads.
void activate(const Call& call, const float (&blocks)[2][BLOCK], int64_t f, int64_t n, BFloat16* values,
              Waiting& waiting) {
  const float* bias[2] = {call.up.bias, call.gate.bias};
  const int64_t pace = (waiting.left() + 31) / 32;
  for (int64_t r = 0; r < STEP; ++r) {
    waiting.advance(pace);
    __m512i kept[LAYERS];
#pragma GCC unroll 2
    for (int64_t i = 0; i < LAYERS; ++i) {
      const __m512 low = add_bias(load(blocks[i] + in_block(r, 0)), bias[i], f);
      const __m512 high = add_bias(load(blocks[i] + in_block(r, LANES)), bias[i], f + LANES);
      kept[i] = round_both(low, high);
      store(call.kept(i, f, n + r), kept[i]);
    }
    __m512 value[2];
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
      const auto said = [&](int64_t i) {  // as the backward pass will read it
        return widen(half ? _mm512_extracti64x4_epi64(kept[i], 1) : _mm512_castsi512_si256(kept[i]));
      };
      const __m512 x = said(LAYERS - 1);
      value[half] = _mm512_mul_ps(x, share_of(x).share);
      if (GATED) value[half] = _mm512_mul_ps(value[half], said(0));
    }
    store(values + r * STEP, round_both(value[0], value[1]));
  }
}

void forward(const Call& call) {
  const int64_t D = call.size, F = call.inner;
  const int64_t part = std::min(PART, round_up((call.tokens + call.threads - 1) / call.threads, STEP));
  const Array<BFloat16> inner(LAYERS * F * D), down(D * F);
#pragma omp parallel num_threads(call.threads)
  {
#pragma omp for schedule(static) nowait
    for (int64_t f = 0; f < F; f += STEP)
      for (int64_t i = 0; i < LAYERS; ++i) tile_across(call.layer(i).weight + f * D, D, D, inner + (i * F + f) * D);
#pragma omp for schedule(static)
    for (int64_t d = 0; d < D; d += STEP) tile_across(call.down.weight + d * F, F, F, down + d * F);
    const Array<BFloat16> x(part * D), values(part * F);
    const Tiles tiles;
    alignas(64) float blocks[2][2][BLOCK];
    Waiting waiting;
#pragma omp for schedule(static)
    for (int64_t begin = 0; begin < call.tokens; begin += part) {
      const int64_t count = std::min(part, call.tokens - begin), rows = round_up(count, STEP);
      tile_rows(call.x + begin * D, D, count, D, rows, x);
      const auto ask = [&](int64_t f, int64_t n) {
        for (int64_t i = 0; i < LAYERS; ++i)
          waiting.push({x + n * D, inner + (i * F + f) * D, D / STEP, blocks[n / STEP % 2][i], false});
      };
      for (int64_t f = 0; f < F; f += STEP) {
        ask(f, 0);
        for (int64_t n = 0; n < rows; n += STEP) {
          waiting.finish();
          if (n + STEP < rows) ask(f, n + STEP);
          activate(call, blocks[n / STEP % 2], f, begin + n, values + n * F + f * STEP, waiting);
        }
      }
      for (int64_t d = 0; d < D; d += STEP)
        for (int64_t n = 0; n < rows; n += STEP) {
          multiply({values + n * F, down + d * F, F / STEP, blocks[0][0], false});
          write_rounded(blocks[0][0], call.down.bias ? call.down.bias + d : nullptr, std::min(STEP, count - n),
                        call.y + (begin + n) * D + d, D);
        }
    }
  }
}

// The gradients of what the inner layers say, of 16 values of a token, and what the last layer reads of it.
struct Slopes {
  __m512 inner[2], value;
};

inline Slopes slopes_of(const __m512 (&said)[LAYERS], __m512 dvalue) {
  const __m512 x = said[LAYERS - 1];
  const Share found = share_of(x);
  const __m512 active = _mm512_mul_ps(x, found.share);
  if (!GATED) return {{_mm512_mul_ps(dvalue, found.slope)}, active};
  const __m512 dactive = _mm512_mul_ps(dvalue, said[0]);
  return {{_mm512_mul_ps(dvalue, active), _mm512_mul_ps(dactive, found.slope)}, _mm512_mul_ps(active, said[0])};
}

// What all threads of the backward pass work with: weights, some of the tokens, and blocks of sums.
struct Backward {
  explicit Backward(const Call& call)
      : part(std::min(PART, call.padded())), inner(LAYERS * call.inner * call.size),
        down(call.size * call.inner), dy(part * call.size), dy_pairs(part * call.size), x_pairs(part * call.size),
        rows(LAYERS * part * call.inner), sums((LAYERS + 1) * call.inner * call.size) {}
  int64_t part;
  Array<BFloat16> inner, down, dy, dy_pairs, x_pairs;
  Array<BFloat16> rows;  // gradients of what the inner layers say, left sides
  Array<float> sums;     // gradients of weights
};

// From the gradients of 32 values of 32 tokens, those of what the inner layers say: to `rows`, and, with the values, to
// `turned`, left sides of products that add up over tokens. These are `rows_apart` and `turned_apart` values apart.
void take_back(const Call& call, const float (&dvalues)[BLOCK], int64_t f, int64_t n, BFloat16* rows,
               int64_t rows_apart, BFloat16* turned, int64_t turned_apart, Waiting& waiting) {
  alignas(64) __m512i pairs[LAYERS + 1][2][16];
  const int64_t pace = (waiting.left() + 31) / 32;
  for (int64_t r = 0; r < STEP; r += 2) {
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
      waiting.advance(pace);
      Slopes of[2];
#pragma GCC unroll 2
      for (int64_t odd = 0; odd < 2; ++odd) {
        __m512 said[LAYERS];
#pragma GCC unroll 2
        for (int64_t i = 0; i < LAYERS; ++i) said[i] = widen(call.kept(i, f, n + r + odd) + half * LANES);
        of[odd] = slopes_of(said, load(dvalues + in_block(r + odd, half * LANES)));
      }
#pragma GCC unroll 2
      for (int64_t i = 0; i < LAYERS; ++i) {
        const __m512i both = round_both(of[0].inner[i], of[1].inner[i]);
        BFloat16* to = rows + i * rows_apart + r * STEP + half * LANES;
        store_half(to, _mm512_castsi512_si256(both));
        store_half(to + STEP, _mm512_extracti64x4_epi64(both, 1));
        pairs[i][half][r / 2] = in_pairs(both);
        if (float* dbias = call.layer(i).dbias) {
          float* sum = dbias + f + half * LANES;
          _mm512_storeu_ps(sum, _mm512_add_ps(load(sum), _mm512_add_ps(of[0].inner[i], of[1].inner[i])));
        }
      }
      pairs[LAYERS][half][r / 2] = in_pairs(round_both(of[0].value, of[1].value));
    }
  }
  for (int64_t i = 0; i <= LAYERS; ++i)
    for (int64_t half = 0; half < 2; ++half) {
      turn(pairs[i][half]);
      for (int64_t j = 0; j < 16; ++j) store(turned + i * turned_apart + half * TILE + j * STEP, pairs[i][half][j]);
    }
}

// The gradients of 32 rows of weights of an inner layer, or of 32 columns of the last one's, from blocks of sums.
void write_gradient(const Call& call, int64_t i, const float* blocks, int64_t f) {
  const int64_t D = call.size, F = call.inner;
  for (int64_t d = 0; d < D; d += STEP, blocks += BLOCK) {
    if (i < LAYERS) {
      write_block(blocks, STEP, call.layer(i).dweight + f * D + d, D);
      continue;
    }
    for (int64_t t = 0; t < 4; ++t) {
      __m512i lanes[16];
      for (int64_t r = 0; r < 16; ++r) lanes[r] = _mm512_loadu_si512(blocks + t * 256 + r * 16);
      turn(lanes);
      for (int64_t r = 0; r < 16; ++r) store(call.down.dweight + (d + t % 2 * 16 + r) * F + f + t / 2 * 16, lanes[r]);
    }
  }
}

// Tokens [begin + n, begin + n + 32) as the products read them.
void tile_tokens(const Call& call, const Backward& all, int64_t begin, int64_t n) {
  const int64_t D = call.size, at = (begin + n) * D, count = std::min(STEP, call.tokens - begin - n);
  tile_rows(call.dy + at, D, count, D, STEP, all.dy + n * D);
  tile_pairs(call.dy + at, D, count, D, STEP, all.part * STEP, all.dy_pairs + n * STEP);
  tile_pairs(call.x + at, D, count, D, STEP, all.part * STEP, all.x_pairs + n * STEP);
}

// Of some tokens, of which there are `padded` from `begin` on, all that follows from the inner values [first, end):
// `rows`, and what is added to the gradients of weights. These are made between the work on the next 32 values.
void differentiate_inner(const Call& call, const Backward& all, int64_t begin, int64_t padded, int64_t first,
                         int64_t end) {
  const int64_t D = call.size, F = call.inner, apart = padded * STEP;
  const Array<BFloat16> both(2 * (LAYERS + 1) * apart);
  const Tiles tiles;
  alignas(64) float dvalues[2][BLOCK];
  Waiting waiting;
  std::vector<Product> gradients;
  for (int64_t f = first; f < end; f += STEP) {
    BFloat16* turned = both + f / STEP % 2 * (LAYERS + 1) * apart;
    const auto ask = [&](int64_t n) {
      waiting.push({all.dy + n * D, all.down + f * D, D / STEP, dvalues[n / STEP % 2], false});
    };
    ask(0);
    for (int64_t n = 0; n < padded; n += STEP) {
      waiting.finish();
      if (n + STEP < padded) ask(n + STEP);
      const int64_t share = (gradients.size() * STEP + padded - n - 1) / (padded - n);
      for (int64_t i = 0; i < share; ++i) waiting.push(gradients.back()), gradients.pop_back();
      take_back(call, dvalues[n / STEP % 2], f, begin + n, all.rows + n * F + f * STEP, all.part * F,
                turned + n * STEP, apart, waiting);
    }
    waiting.finish();
    for (int64_t i = 0; i <= LAYERS; ++i)
      for (int64_t d = 0; d < D; d += STEP)
        gradients.push_back({turned + i * apart, (i < LAYERS ? all.x_pairs : all.dy_pairs) + d * all.part,
                             padded / STEP, all.sums + (i * F + f) * D + d * STEP, begin > 0});
  }
  for (const Product& product : gradients) multiply(product);
}

// The gradient of x of tokens [begin + first, begin + end).
void differentiate_x(const Call& call, const Backward& all, int64_t begin, int64_t first, int64_t end) {
  const int64_t D = call.size, F = call.inner;
  const Tiles tiles;
  alignas(64) float block[BLOCK];
  for (int64_t d = 0; d < D; d += STEP)
    for (int64_t n = first; n < end; n += STEP) {
      for (int64_t i = 0; i < LAYERS; ++i)
        multiply({all.rows + (i * all.part + n) * F, all.inner + i * F * D + d * F, F / STEP, block, i > 0});
      write_rounded(block, nullptr, std::min(STEP, call.tokens - begin - n), call.dx + (begin + n) * D + d, D);
    }
}

void backward(const Call& call) {
  const int64_t D = call.size, F = call.inner;
  const int64_t share = round_up((F + call.threads - 1) / call.threads, STEP);
  const Backward all(call);
#pragma omp parallel num_threads(call.threads)
  {
#pragma omp for schedule(static) nowait
    for (int64_t f = 0; f < F; f += STEP) {
      tile_pairs(call.down.weight + f, F, D, STEP, D, D * STEP, all.down + f * D);
      for (int64_t i = 0; i < LAYERS; ++i) {
        tile_pairs(call.layer(i).weight + f * D, D, STEP, D, STEP, F * STEP, all.inner + i * F * D + f * STEP);
        if (float* dbias = call.layer(i).dbias) std::fill_n(dbias + f, STEP, 0.f);
      }
    }
    for (int64_t begin = 0; begin < call.tokens; begin += all.part) {
      const int64_t padded = std::min(all.part, call.padded() - begin);
      const int64_t tokens = round_up((padded + call.threads - 1) / call.threads, STEP);
#pragma omp for schedule(static)
      for (int64_t n = 0; n < padded; n += STEP) tile_tokens(call, all, begin, n);
#pragma omp for schedule(static)
      for (int64_t first = 0; first < F; first += share)
        differentiate_inner(call, all, begin, padded, first, std::min(F, first + share));
#pragma omp for schedule(static) nowait
      for (int64_t first = 0; first < padded; first += tokens)
        differentiate_x(call, all, begin, first, std::min(padded, first + tokens));
    }
#pragma omp for schedule(static) nowait
    for (int64_t f = 0; f < F; f += STEP)
      for (int64_t i = 0; i <= LAYERS; ++i) write_gradient(call, i, all.sums + (i * F + f) * D, f);
    if (call.down.dbias) {
#pragma omp for schedule(static)
      for (int64_t d = 0; d < D; d += STEP) add_up_columns(call.dy + d, D, call.tokens, call.down.dbias + d);
    }
  }
}

}  // namespace

extern "C" void feed_forward(const Call* call) { forward(*call); }
extern "C" void feed_forward_backward(const Call* call) { backward(*call); }
