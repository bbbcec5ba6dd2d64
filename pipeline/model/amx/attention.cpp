// Attention and its gradient. Interface, formulas and legend: attention.py. Compiled together with vectors.h.
//
// A thread takes one head of keys at a time, and for it ROWS queries at a time, so that their scores never leave the
// processor's cache.

namespace {
constexpr int64_t K = HEAD_DIM;
constexpr int64_t ROWS = 64;  // queries that are worked on at a time
constexpr int64_t GROUP = 4;  // of them, whose largest scores are looked for before one is waited for
}  // namespace

// (rows, heads, places, head_dim) of bfloat16, the last without gaps; strides in values. Mirrored in Python.
struct Heads {
  BFloat16* data;
  int64_t row, head, place;
  BFloat16* at(int64_t b, int64_t h, int64_t t = 0) const { return data + b * row + h * head + t * place; }
};

// (rows, heads, queries, keys) of float32; a stride is 0 where all are alike. Mirrored in Python.
struct Bias {
  const float* data;
  int64_t row, head, query;
  const float* at(int64_t b, int64_t h, int64_t t) const { return data + b * row + h * head + t * query; }
};

// What queries or keys are made ready by: an RMS norm, then rotary positions. Mirrored in Python.
struct Recipe {
  const float* weight;     // (head_dim); null: no norm
  float* dweight;          // its gradient, written by the backward pass; zeros without a norm
  const float *cos, *sin;  // (rows, places, head_dim), the sines signed; null: nothing is turned
  int64_t row, place;      // their strides
};

// What is asked for. Mirrored in Python.
struct Call {
  int64_t rows, heads, key_heads, queries, keys, threads;
  double scale, eps;
  Heads q, k, v, y;
  Bias bias;
  Recipe of_q, of_k;
  float* sums;  // (2, rows, heads, queries): the largest score times log2 e, and one over the sum of powers
  Heads dy, dq, dk, dv;

  int64_t padded() const { return round_up(keys, STEP); }
  int64_t blocks() const { return (queries + ROWS - 1) / ROWS; }
  int64_t tasks() const { return rows * key_heads; }
  float* top(int64_t b, int64_t h, int64_t t) const { return sums + (b * heads + h) * queries + t; }
  float* share(int64_t b, int64_t h, int64_t t) const { return top(b, h, t) + rows * heads * queries; }
};

namespace {

// Rows of a head made ready, and gradients on their way back.
class Ready {
 public:
  Ready(const Recipe& recipe, double eps) : recipe(recipe), eps(eps) {}

  // The first `count` places of x, which is at row b and place `first`, to the rows of `to`.
  void make(const BFloat16* x, int64_t stride, int64_t b, int64_t first, int64_t count, BFloat16* to) const {
    for (int64_t n = 0; n < count; ++n) {
      Row row = widened(x + n * stride);
      if (recipe.weight) {
        const __m512 factor = factor_of(row);
#pragma GCC unroll 8
        for (int64_t i = 0; i < VECTORS; ++i)
          row.at[i] = _mm512_mul_ps(_mm512_mul_ps(row.at[i], factor), load(recipe.weight + i * LANES));
      }
      if (recipe.cos) {
        const float *cos = turns(recipe.cos, b, first + n), *sin = turns(recipe.sin, b, first + n);
        const Row before = row;
#pragma GCC unroll 8
        for (int64_t i = 0; i < VECTORS; ++i)
          row.at[i] = _mm512_fmadd_ps(before.at[partner(i)], load(sin + i * LANES),
                                      _mm512_mul_ps(before.at[i], load(cos + i * LANES)));
      }
#pragma GCC unroll 8
      for (int64_t i = 0; i < VECTORS; i += 2) store(to + n * K + i * LANES, round_both(row.at[i], row.at[i + 1]));
    }
  }

  // The gradient of one place of x from that of what was made of it, times `scale`; adds to the norm's `dweight`.
  void take_back(const float* gradient, float scale, const BFloat16* x, int64_t b, int64_t place, float* dweight,
                 BFloat16* to) const {
    Row row;
    const __m512 by = _mm512_set1_ps(scale);
#pragma GCC unroll 8
    for (int64_t i = 0; i < VECTORS; ++i) row.at[i] = _mm512_mul_ps(load(gradient + i * LANES), by);
    if (recipe.cos) {
      const float *cos = turns(recipe.cos, b, place), *sin = turns(recipe.sin, b, place);
      const Row before = row;
#pragma GCC unroll 8
      for (int64_t i = 0; i < VECTORS; ++i)
        row.at[i] = _mm512_fmadd_ps(before.at[partner(i)], load(sin + partner(i) * LANES),
                                    _mm512_mul_ps(before.at[i], load(cos + i * LANES)));
    }
    if (recipe.weight) {
      Row unit = widened(x);
      const __m512 factor = factor_of(unit);
      __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 8
      for (int64_t i = 0; i < VECTORS; ++i) {
        unit.at[i] = _mm512_mul_ps(unit.at[i], factor);
        store(dweight + i * LANES, (__m512i)_mm512_fmadd_ps(row.at[i], unit.at[i], load(dweight + i * LANES)));
        row.at[i] = _mm512_mul_ps(row.at[i], load(recipe.weight + i * LANES));
        sum = _mm512_fmadd_ps(row.at[i], unit.at[i], sum);
      }
      const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / K);
#pragma GCC unroll 8
      for (int64_t i = 0; i < VECTORS; ++i)
        row.at[i] = _mm512_mul_ps(factor, _mm512_fnmadd_ps(unit.at[i], mean, row.at[i]));
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < VECTORS; i += 2) store(to + i * LANES, round_both(row.at[i], row.at[i + 1]));
  }

 private:
  static constexpr int64_t VECTORS = K / LANES;
  struct Row {
    __m512 at[VECTORS];
  };
  // Where the other half of a pair is that is turned.
  static constexpr int64_t partner(int64_t i) { return (i + VECTORS / 2) % VECTORS; }
  const float* turns(const float* table, int64_t b, int64_t place) const {
    return table + b * recipe.row + place * recipe.place;
  }
  static Row widened(const BFloat16* x) {
    Row row;
#pragma GCC unroll 8
    for (int64_t i = 0; i < VECTORS; ++i) row.at[i] = widen(x + i * LANES);
    return row;
  }
  // One over the root mean square.
  __m512 factor_of(const Row& row) const {
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int64_t i = 0; i < VECTORS; ++i) sum = _mm512_fmadd_ps(row.at[i], row.at[i], sum);
    return _mm512_set1_ps(1.f / std::sqrt(_mm512_reduce_add_ps(sum) / K + eps));
  }

  const Recipe& recipe;
  float eps;
};

// The bias of LANES keys from `key` on; none is seen behind the last.
inline __m512 load_bias(const float* bias, int64_t key, int64_t keys) {
  const auto left = static_cast<unsigned>(std::clamp<int64_t>(keys - key, 0, LANES));
  const __mmask16 there = _bzhi_u32(0xffff, left);
  return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITE), there, bias + key);
}

// Whether one of the queries of a block sees one of STEP keys.
bool sees(const float* bias, int64_t stride, int64_t queries, int64_t key, int64_t keys) {
  for (int64_t r = queries - 1; r >= 0; --r)  // the last query mostly sees most
    for (int64_t j = key; j < key + STEP; j += LANES) {
      const __m512 here = load_bias(bias + r * stride, j, keys);
      if (_mm512_cmp_ps_mask(here, _mm512_set1_ps(-INFINITE), _CMP_NEQ_UQ)) return true;
    }
  return false;
}

struct Range {
  int64_t first, end;
};

// From the first to the last key that a block of queries sees, in whole steps: for each block of each row and head
// whose bias differs. What is outside is left out; so causal attention costs half, and documents and windows less.
class Ranges {
 public:
  explicit Ranges(const Call& call)
      : call(call), rows(call.bias.row ? call.rows : 1), heads(call.bias.head ? call.heads : 1),
        ranges(rows * heads * call.blocks(), Range{0, call.padded()}) {
    if (!call.bias.data) return;
#pragma omp parallel for num_threads(call.threads)
    for (int64_t n = 0; n < static_cast<int64_t>(ranges.size()); ++n) ranges[n] = find(n);
  }
  Range at(int64_t b, int64_t h, int64_t block) const {
    return ranges[((b % rows) * heads + h % heads) * call.blocks() + block];
  }

 private:
  Range find(int64_t n) const {
    const int64_t block = n % call.blocks(), which = n / call.blocks(), begin = block * ROWS;
    const float* bias = call.bias.at(which / heads, which % heads, begin);
    const int64_t queries = call.bias.query ? std::min(ROWS, call.queries - begin) : 1;
    const auto none = [&](int64_t key) { return !sees(bias, call.bias.query, queries, key, call.keys); };
    Range range{0, call.padded()};
    while (range.end > STEP && none(range.end - STEP)) range.end -= STEP;
    while (range.first + STEP < range.end && none(range.first)) range.first += STEP;
    return range;
  }

  const Call& call;
  int64_t rows, heads;
  std::vector<Range> ranges;
};

// The bias that is given, or a row of zeros, which are kept in `zeros`.
Bias bias_of(const Call& call, const Array<float>& zeros) {
  zeros.fill(0.f);
  return call.bias.data ? call.bias : Bias{zeros, 0, 0, 0};
}

// (scale S + bias) log2 e of LANES keys.
inline __m512 load_scores(const float* scores, const float* bias, int64_t key, int64_t keys, __m512 scale) {
  const __m512 scaled = _mm512_mul_ps(load(scores + key), scale);
  return _mm512_fmadd_ps(load_bias(bias, key, keys), _mm512_set1_ps(LOG2_E), scaled);
}

// One query's scores, scaled and with their bias, in their place; the largest of them.
float finish_scores(float* scores, const float* bias, Range range, int64_t keys, __m512 scale) {
  __m512 most = _mm512_set1_ps(-INFINITE);
  for (int64_t j = range.first; j < range.end; j += LANES) {
    const __m512 here = load_scores(scores, bias, j, keys, scale);
    _mm512_storeu_ps(scores + j, here);
    most = _mm512_max_ps(most, here);
  }
  return _mm512_reduce_max_ps(most);
}

// One query's scores to powers, rounded; one over their sum.
float soften(const float* scores, float top, Range range, BFloat16* powers) {
  __m512 sum = _mm512_setzero_ps();
  const __m512 level = _mm512_set1_ps(top);
  for (int64_t j = range.first; j < range.end; j += STEP) {
    const __m512 low = power_of_2(_mm512_sub_ps(load(scores + j), level));
    const __m512 high = power_of_2(_mm512_sub_ps(load(scores + j + LANES), level));
    sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
    store(powers + j, round_both(low, high));
  }
  return 1.f / _mm512_reduce_add_ps(sum);
}

// What one thread of the forward pass works with.
struct Forward {
  explicit Forward(const Call& call)
      : key_rows(call.padded() * K), keys(call.padded() * K), values(call.padded() * K), queries(ROWS * K),
        powers(ROWS * call.padded()), scores(ROWS * call.padded()), sums(ROWS * K), zeros(call.padded()),
        bias(bias_of(call, zeros)) {}
  Array<BFloat16> key_rows, keys, values, queries, powers;
  Array<float> scores, sums, zeros;
  Bias bias;
};

void forward_block(const Call& call, const Forward& own, Range range, int64_t b, int64_t h, int64_t begin) {
  const int64_t size = call.padded(), count = std::min(ROWS, call.queries - begin);
  const int64_t width = range.end - range.first;
  const __m512 scale = _mm512_set1_ps(static_cast<float>(call.scale) * LOG2_E);
  Ready(call.of_q, call.eps).make(call.q.at(b, h, begin), call.q.place, b, begin, count, own.queries);
  brgemm(count, width, K, K, size, size, false, own.queries, own.keys + 2 * range.first, own.scores + range.first);
  float *tops = call.top(b, h, begin), *shares = call.share(b, h, begin);
  for (int64_t group = 0; group < count; group += GROUP) {
    const int64_t end = std::min(group + GROUP, count);
    for (int64_t r = group; r < end; ++r)
      tops[r] = finish_scores(own.scores + r * size, own.bias.at(b, h, begin + r), range, call.keys, scale);
    for (int64_t r = group; r < end; ++r)
      shares[r] = soften(own.scores + r * size, tops[r], range, own.powers + r * size);
  }
  brgemm(count, K, width, size, K, K, false, own.powers + range.first, own.values + range.first * K, own.sums);
  for (int64_t r = 0; r < count; ++r) {
    const __m512 share = _mm512_set1_ps(shares[r]);
    for (int64_t k = 0; k < K; k += STEP)
      store(call.y.at(b, h, begin + r) + k, round_both(_mm512_mul_ps(load(own.sums + r * K + k), share),
                                                       _mm512_mul_ps(load(own.sums + r * K + k + LANES), share)));
  }
}

// What the backward pass knows of one query.
struct Query {
  const float *scores, *dweights, *bias;  // dW = dY V^T
  __m512 top, share, mean;
};

// Weights, and gradients of scores, of LANES keys.
struct Slopes {
  __m512 weights, dscores;
};

inline Slopes slopes_of(const Query& query, int64_t key, int64_t keys, __m512 scale) {
  const __m512 score = load_scores(query.scores, query.bias, key, keys, scale);
  const __m512 weights = _mm512_mul_ps(power_of_2(_mm512_sub_ps(score, query.top)), query.share);
  return {weights, _mm512_mul_ps(weights, _mm512_sub_ps(load(query.dweights + key), query.mean))};
}

inline __m512 dot(const BFloat16* a, const BFloat16* b) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t k = 0; k < K; k += LANES) sum = _mm512_fmadd_ps(widen(a + k), widen(b + k), sum);
  return _mm512_set1_ps(_mm512_reduce_add_ps(sum));
}

// What one thread of the backward pass works with. `dkeys` and `dvalues` are transposed, (K, padded); `dscores` has
// rows, `dscore_pairs` and `weight_pairs` have pairs of queries.
struct Backward {
  explicit Backward(const Call& call)
      : key_rows(call.padded() * K), keys(call.padded() * K), key_pairs(call.padded() * K), values(call.padded() * K),
        dscores(ROWS * call.padded()), dscore_pairs(ROWS * call.padded()), weight_pairs(ROWS * call.padded()),
        query_rows(ROWS * K), queries(ROWS * K), answers(ROWS * K), scores(ROWS * call.padded()),
        dweights(ROWS * call.padded()), dqueries(ROWS * K), dkeys(call.padded() * K), dvalues(call.padded() * K),
        zeros(call.padded()), bias(bias_of(call, zeros)) {}
  Array<BFloat16> key_rows, keys, key_pairs, values, dscores, dscore_pairs, weight_pairs, query_rows, queries, answers;
  Array<float> scores, dweights, dqueries, dkeys, dvalues, zeros;
  Bias bias;
};

void backward_block(const Call& call, const Backward& own, Range range, int64_t b, int64_t h, int64_t begin,
                    float* dnorm) {
  const int64_t size = call.padded(), count = std::min(ROWS, call.queries - begin);
  const int64_t first = range.first, width = range.end - first;
  const __m512 scale = _mm512_set1_ps(static_cast<float>(call.scale) * LOG2_E);
  const BFloat16 *q = call.q.at(b, h, begin), *dy = call.dy.at(b, h, begin);
  const Ready ready(call.of_q, call.eps);
  ready.make(q, call.q.place, b, begin, count, own.query_rows);
  brgemm(count, width, K, K, size, size, false, own.query_rows, own.keys + 2 * first, own.scores + first);
  brgemm(count, width, K, call.dy.place, size, size, false, dy, own.values + 2 * first, own.dweights + first);
  const auto query = [&](int64_t r) {
    const int64_t t = begin + r;
    const float *scores = own.scores + r * size, *dweights = own.dweights + r * size, *bias = own.bias.at(b, h, t);
    return Query{scores, dweights, bias, _mm512_set1_ps(*call.top(b, h, t)), _mm512_set1_ps(*call.share(b, h, t)),
                 dot(dy + r * call.dy.place, call.y.at(b, h, t))};
  };
  for (int64_t r = 0; r < count; r += 2) {
    const bool alone = r + 1 == count;
    const Query even = query(r), odd = alone ? even : query(r + 1);
    for (int64_t j = first; j < range.end; j += LANES) {
      const Slopes none{_mm512_setzero_ps(), _mm512_setzero_ps()};
      const Slopes low = slopes_of(even, j, call.keys, scale);
      const Slopes high = alone ? none : slopes_of(odd, j, call.keys, scale);
      const __m512i dscores = round_both(low.dscores, high.dscores);
      store_half(own.dscores + r * size + j, _mm512_castsi512_si256(dscores));
      store_half(own.dscores + (r + 1) * size + j, _mm512_extracti64x4_epi64(dscores, 1));
      store(own.dscore_pairs + r * size + 2 * j, in_pairs(dscores));
      store(own.weight_pairs + r * size + 2 * j, in_pairs(round_both(low.weights, high.weights)));
    }
  }
  for (int64_t r = (count + 1) / 2 * 2; r < ROWS; r += 2) {  // no queries
    std::memset(own.dscore_pairs + r * size, 0, 2 * size * sizeof(BFloat16));
    std::memset(own.weight_pairs + r * size, 0, 2 * size * sizeof(BFloat16));
  }
  brgemm(count, K, width, size, K, K, false, own.dscores + first, own.key_pairs + first * K, own.dqueries);
  for (int64_t r = 0; r < count; ++r)
    ready.take_back(own.dqueries + r * K, call.scale, q + r * call.q.place, b, begin + r, dnorm,
                    call.dq.at(b, h, begin + r));
  transpose(own.query_rows, K, count, K, ROWS, own.queries);
  transpose(dy, call.dy.place, count, K, ROWS, own.answers);
  brgemm(K, width, ROWS, ROWS, size, size, true, own.queries, own.dscore_pairs + 2 * first, own.dkeys + first);
  brgemm(K, width, ROWS, ROWS, size, size, true, own.answers, own.weight_pairs + 2 * first, own.dvalues + first);
}

// `row(place, gradient)` for every key, of gradients that are transposed, (K, padded).
template <class Row>
void for_each_key(const Call& call, const float* transposed, const Row& row) {
  alignas(64) float tile[LANES * K];
  const int64_t size = call.padded();
  for (int64_t first = 0; first < call.keys; first += LANES) {
    for (int64_t k = 0; k < K; k += LANES) {
      __m512i lanes[16];
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) lanes[i] = _mm512_loadu_si512(transposed + (k + i) * size + first);
      turn(lanes);
#pragma GCC unroll 16
      for (int64_t i = 0; i < 16; ++i) store(tile + i * K + k, lanes[i]);
    }
    for (int64_t i = 0; i < std::min(LANES, call.keys - first); ++i) row(first + i, tile + i * K);
  }
}

// `block(h, range, begin)` for all queries of all heads that read head `g` of keys.
template <class Block>
void for_each_block(const Call& call, const Ranges& ranges, int64_t b, int64_t g, const Block& block) {
  const int64_t shared = call.heads / call.key_heads;
  for (int64_t h = g * shared; h < (g + 1) * shared; ++h)
    for (int64_t i = 0; i < call.blocks(); ++i) block(h, ranges.at(b, h, i), i * ROWS);
}

void forward(const Call& call) {
  const Ranges ranges(call);
  const int64_t size = call.padded();
#pragma omp parallel num_threads(call.threads)
  {
    const Forward own(call);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < call.tasks(); ++n) {
      const int64_t b = n / call.key_heads, g = n % call.key_heads;
      Ready(call.of_k, call.eps).make(call.k.at(b, g), call.k.place, b, 0, call.keys, own.key_rows);
      pack_across(own.key_rows, K, call.keys, K, size, own.keys);
      pack_along(call.v.at(b, g), call.v.place, call.keys, K, size, own.values);
      for_each_block(call, ranges, b, g, [&](int64_t h, Range range, int64_t begin) {
        forward_block(call, own, range, b, h, begin);
      });
    }
    at::native::cpublas::brgemm_release();
  }
}

void backward(const Call& call) {
  const Ranges ranges(call);
  const int64_t size = call.padded();
  const Array<float> dnorms(call.tasks() * 2 * K);  // of each task, so that they are added in one order
  dnorms.fill(0.f);
#pragma omp parallel num_threads(call.threads)
  {
    const Backward own(call);
    const Ready ready(call.of_k, call.eps);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < call.tasks(); ++n) {
      const int64_t b = n / call.key_heads, g = n % call.key_heads;
      float *dnorm_q = dnorms + n * 2 * K, *dnorm_k = dnorm_q + K;
      ready.make(call.k.at(b, g), call.k.place, b, 0, call.keys, own.key_rows);
      pack_across(own.key_rows, K, call.keys, K, size, own.keys);
      pack_along(own.key_rows, K, call.keys, K, size, own.key_pairs);
      pack_across(call.v.at(b, g), call.v.place, call.keys, K, size, own.values);
      own.dkeys.fill(0.f);
      own.dvalues.fill(0.f);
      for_each_block(call, ranges, b, g, [&](int64_t h, Range range, int64_t begin) {
        backward_block(call, own, range, b, h, begin, dnorm_q);
      });
      for_each_key(call, own.dkeys, [&](int64_t place, const float* gradient) {
        ready.take_back(gradient, call.scale, call.k.at(b, g, place), b, place, dnorm_k, call.dk.at(b, g, place));
      });
      for_each_key(call, own.dvalues, [&](int64_t place, const float* gradient) {
        for (int64_t k = 0; k < K; k += STEP)
          store(call.dv.at(b, g, place) + k, round_both(load(gradient + k), load(gradient + k + LANES)));
      });
    }
    at::native::cpublas::brgemm_release();
  }
  for (int64_t k = 0; k < K; ++k) {
    call.of_q.dweight[k] = call.of_k.dweight[k] = 0.f;
    for (int64_t n = 0; n < call.tasks(); ++n) {
      call.of_q.dweight[k] += dnorms[n * 2 * K + k];
      call.of_k.dweight[k] += dnorms[n * 2 * K + K + k];
    }
  }
}

}  // namespace

extern "C" void attend_forward(const Call* call) { forward(*call); }
extern "C" void attend_backward(const Call* call) { backward(*call); }
