// The cross-entropy of predicted tokens and its gradients. Interface, formulas and legend: cross_entropy.py. Compiled
// behind vectors.h and tiles.h.
//
// A thread takes some targets at a time, whose logits become powers in their place; then, of many targets, some rows of
// the weights, whose gradient is so one thread's, and added up in one order.

namespace {
constexpr int64_t MOST_TARGETS = 256, LEAST_TARGETS = 64;  // that are worked on at a time
constexpr int64_t MOST_LOGITS = 1 << 20;                   // of them, unless they are the fewest
constexpr int64_t CHUNK = 8 * STEP;                        // tokens of the vocabulary whose products are added up
constexpr int64_t GROUP = 4 * STEP;                        // rows of the weights that read x together
constexpr int64_t MOST_POWERS = 1 << 25;                   // that are kept for the gradient of the weights
}  // namespace

// What is asked for. Mirrored in Python.
struct Call {
  int64_t targets, size, vocabulary, threads;  // N, D, V
  const BFloat16* x;                           // (N, D)
  const float *weight, *bias;                  // (V, D), (V); null: no bias
  const int64_t* labels;                       // (N), negative where there is no target
  float *nats, *dx, *dweight, *dbias;          // (N), (N, D), (V, D), (V)

  int64_t padded() const { return round_up(vocabulary, STEP); }
  int64_t part() const {
    return std::clamp(MOST_LOGITS / padded() / STEP * STEP, LEAST_TARGETS, MOST_TARGETS);
  }
};

namespace {

// A row of weights as the products read it.
inline __m512 rounded(const float* x) { return widen(round_16(x)); }

// The weights as right sides: of products with x, and with powers.
struct Weights {
  explicit Weights(const Call& call) : across(call.padded() * call.size), pairs(call.padded() * call.size) {}
  Array<BFloat16> across, pairs;
  void tile(const Call& call, int64_t v) const {
    const int64_t D = call.size, count = std::min(STEP, call.vocabulary - v);
    const float* rows = call.weight + v * D;
    const Array<float> filled(STEP * D);
    if (count < STEP) {
      filled.fill(0.f);
      std::copy_n(rows, count * D, static_cast<float*>(filled));
      rows = filled;
    }
    tile_across(rows, D, D, across + v * D);
    tile_pairs(rows, D, STEP, D, STEP, call.padded() * STEP, pairs + v * STEP);
  }
};

// What many targets leave for the gradient of the weights: powers, transposed, x over their sums, and one over these.
struct Kept {
  Kept(const Call& call, int64_t targets)
      : targets(targets), powers(call.padded() * targets), x(targets * call.size), shares(targets) {
    shares.fill(0.f);
  }
  int64_t targets;
  Array<BFloat16> powers, x;
  Array<float> shares;
};

// What one thread works with. Powers are logits first.
struct Own {
  explicit Own(const Call& call)
      : part(call.part()), x(part * call.size), powers(part * call.padded()), scaled(part * call.size),
        tops(part * LANES), sums(part * LANES), dx(part * call.size), said(part) {}
  int64_t part;
  Array<BFloat16> x, powers, scaled;
  Array<float> tops, sums, dx, said;  // tops and sums: of 16 parts of each target's row
};

void make_logits(const Call& call, const Weights& weights, const Own& own, int64_t rows) {
  alignas(64) float block[BLOCK];
  own.tops.fill(-INFINITE);
  for (int64_t v = 0; v < call.padded(); v += STEP) {
    const auto left = static_cast<unsigned>(std::min(STEP, call.vocabulary - v));
    const __mmask32 there = _bzhi_u32(0xffffffff, left);
    const auto bias = [&](int64_t at, __mmask16 mask) {
      const __m512 none = _mm512_setzero_ps();
      const __m512 given = call.bias ? _mm512_maskz_loadu_ps(mask, call.bias + at) : none;
      return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITE), mask, given);
    };
    const __m512 low_bias = bias(v, there), high_bias = bias(v + LANES, there >> LANES);
    for (int64_t n = 0; n < rows; n += STEP) {
      multiply({own.x + n * call.size, weights.across + v * call.size, call.size / STEP, block, false});
      BFloat16* to = own.powers + n * call.padded() + v * STEP;
      for_each_row(block, STEP, [&](int64_t r, __m512 low, __m512 high) {
        low = _mm512_add_ps(low, low_bias);
        high = _mm512_add_ps(high, high_bias);
        store(to + r * STEP, round_both(low, high));
        float* top = own.tops + (n + r) * LANES;
        _mm512_store_ps(top, _mm512_max_ps(_mm512_max_ps(low, high), _mm512_load_ps(top)));
      });
    }
  }
}

// The logits of 32 targets to powers, here and transposed; their sums.
void soften(const Call& call, const Own& own, const Kept& kept, int64_t n, int64_t kept_at) {
  const __m512 base = _mm512_set1_ps(LOG2_E);
  alignas(64) float tops[STEP];
  for (int64_t r = 0; r < STEP; ++r) {
    tops[r] = _mm512_reduce_max_ps(_mm512_load_ps(own.tops + (n + r) * LANES));
    own.tops[(n + r) * LANES] = tops[r];
    tops[r] *= LOG2_E;
    _mm512_store_ps(own.sums + (n + r) * LANES, _mm512_setzero_ps());
  }
  for (int64_t v = 0; v < call.padded(); v += STEP) {
    BFloat16* step = own.powers + n * call.padded() + v * STEP;
    for (int64_t r = 0; r < STEP; ++r) {
      const __m512 top = _mm512_set1_ps(tops[r]);
      const __m512 low = power_of_2(_mm512_fmsub_ps(widen(step + r * STEP), base, top));
      const __m512 high = power_of_2(_mm512_fmsub_ps(widen(step + r * STEP + LANES), base, top));
      float* sum = own.sums + (n + r) * LANES;
      _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_add_ps(low, high)));
      store(step + r * STEP, round_both(low, high));
    }
    turn_rows(step, STEP, STEP, STEP, kept.powers + v * kept.targets + kept_at * STEP);
  }
}

// All that follows from `count` targets, the first at `begin`, but the gradient of the weights.
void predict(const Call& call, const Weights& weights, const Own& own, const Kept& kept, int64_t begin, int64_t count,
             int64_t kept_at) {
  const int64_t D = call.size, V = call.padded();
  const int64_t rows = round_up(count, STEP);
  const BFloat16* x = call.x + begin * D;
  tile_rows(x, D, count, D, rows, own.x);
  make_logits(call, weights, own, rows);
  float* const shares = kept.shares + kept_at;
  for (int64_t n = 0; n < count; ++n) {
    const int64_t label = std::max<int64_t>(call.labels[begin + n], 0);
    own.said[n] = own.powers[n / STEP * STEP * V + label / STEP * STEP * STEP + n % STEP * STEP + label % STEP];
  }
  for (int64_t n = 0; n < rows; n += STEP) soften(call, own, kept, n, kept_at + n);
  std::fill(shares + count, shares + rows, 0.f);
  for (int64_t n = 0; n < count; ++n) {
    const bool valid = call.labels[begin + n] >= 0;
    const float sum = _mm512_reduce_add_ps(_mm512_load_ps(own.sums + n * LANES));
    call.nats[begin + n] = valid ? std::log(sum) + own.tops[n * LANES] - own.said[n] : 0.f;
    shares[n] = valid ? 1.f / sum : 0.f;
    const __m512 share = _mm512_set1_ps(shares[n]);
    for (int64_t d = 0; d < D; d += STEP)
      store(own.scaled + n * D + d, round_both(_mm512_mul_ps(widen(x + n * D + d), share),
                                               _mm512_mul_ps(widen(x + n * D + d + LANES), share)));
  }
  tile_pairs<BFloat16>(own.scaled, D, count, D, rows, kept.targets * STEP, kept.x + kept_at * STEP);
  for (int64_t v = 0; v < V; v += CHUNK)
    for (int64_t n = 0; n < rows; n += STEP)
      for (int64_t d = 0; d < D; d += STEP)
        multiply({own.powers + n * V + v * STEP, weights.pairs + d * V + v * STEP, std::min(CHUNK, V - v) / STEP,
                  own.dx + n * D + d * STEP, v > 0});
  for (int64_t n = 0; n < count; n += STEP)
    for (int64_t d = 0; d < D; d += STEP)
      for_each_row(own.dx + n * D + d * STEP, std::min(STEP, count - n), [&](int64_t r, __m512 low, __m512 high) {
        const __m512 share = _mm512_set1_ps(shares[n + r]);
        const int64_t label = call.labels[begin + n + r], at = (begin + n + r) * D + d;
        const __m512 valid = _mm512_set1_ps(label < 0 ? 0.f : 1.f);
        const float* row = call.weight + std::max<int64_t>(label, 0) * D + d;
        _mm512_storeu_ps(call.dx + at, _mm512_fnmadd_ps(rounded(row), valid, _mm512_mul_ps(low, share)));
        _mm512_storeu_ps(call.dx + at + LANES,
                         _mm512_fnmadd_ps(rounded(row + LANES), valid, _mm512_mul_ps(high, share)));
      });
}

// Adds to the gradients of the weights, in blocks, and of the bias what `count` targets give the rows [first, end).
void add_gradients(const Call& call, const Kept& kept, int64_t count, int64_t first, int64_t end, float* blocks,
                   bool adds) {
  const int64_t D = call.size;
  for (int64_t n = 0; n < count; n += CHUNK)
    for (int64_t group = first; group < end; group += GROUP)
      for (int64_t d = 0; d < D; d += STEP)
        for (int64_t v = group; v < std::min(end, group + GROUP); v += STEP)
          multiply({kept.powers + v * kept.targets + n * STEP, kept.x + d * kept.targets + n * STEP,
                    std::min(CHUNK, count - n) / STEP, blocks + v * D + d * STEP, adds || n > 0});
  if (!call.dbias) return;
  for (int64_t v = first; v < std::min(end, call.vocabulary); ++v) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t n = 0; n < count; n += LANES) {
      const BFloat16* row = kept.powers + (v - v % STEP) * kept.targets + (n - n % STEP + v % STEP) * STEP + n % STEP;
      sum = _mm512_fmadd_ps(widen(row), load(kept.shares + n), sum);
    }
    call.dbias[v] = (adds ? call.dbias[v] : 0.f) + _mm512_reduce_add_ps(sum);
  }
}

// What the labels give to the gradients of the rows [first, end).
void take_labels(const Call& call, int64_t first, int64_t end) {
  for (int64_t n = 0; n < call.targets; ++n) {
    const int64_t label = call.labels[n];
    if (label < first || label >= end) continue;
    float* row = call.dweight + label * call.size;
    for (int64_t d = 0; d < call.size; d += LANES)
      _mm512_storeu_ps(row + d, _mm512_sub_ps(load(row + d), widen(call.x + n * call.size + d)));
    if (call.dbias) call.dbias[label] -= 1.f;
  }
}

void cross_entropy(const Call& call) {
  const int64_t V = call.padded(), rows = round_up(call.targets, STEP);
  const int64_t together = std::min(rows, std::max<int64_t>(MOST_POWERS / V / MOST_TARGETS, 1) * MOST_TARGETS);
  const int64_t share = round_up((V + call.threads - 1) / call.threads, STEP);
  const Weights weights(call);
  const Kept kept(call, together);
  const Array<float> blocks(V * call.size);
  if (!call.targets) {
    blocks.fill(0.f);
    if (call.dbias) std::fill_n(call.dbias, call.vocabulary, 0.f);
  }
#pragma omp parallel num_threads(call.threads)
  {
#pragma omp for schedule(static)
    for (int64_t v = 0; v < V; v += STEP) weights.tile(call, v);
    const Own own(call);
    const Tiles tiles;
    for (int64_t begin = 0; begin < call.targets; begin += together) {
      const int64_t end = std::min(call.targets, begin + together);
#pragma omp for schedule(static)
      for (int64_t n = begin; n < end; n += call.part())
        predict(call, weights, own, kept, n, std::min(own.part, end - n), n - begin);
#pragma omp for schedule(static)
      for (int64_t v = 0; v < V; v += share)
        add_gradients(call, kept, round_up(end - begin, STEP), v, std::min(V, v + share), blocks, begin > 0);
    }
#pragma omp for schedule(static)
    for (int64_t first = 0; first < V; first += share) {
      const int64_t end = std::min(call.vocabulary, first + share);
      for (int64_t v = first; v < end; v += STEP)
        for (int64_t d = 0; d < call.size; d += STEP)
          write_block(blocks + v * call.size + d * STEP, std::min(STEP, end - v), call.dweight + v * call.size + d,
                      call.size);
      take_labels(call, first, end);
    }
  }
}

}  // namespace

extern "C" void cross_entropy_with_gradients(const Call* call) { cross_entropy(*call); }
