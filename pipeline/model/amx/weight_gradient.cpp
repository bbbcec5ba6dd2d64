// The gradient of a linear layer's weights. Interface and legend: weight_gradient.py. Compiled together with vectors.h.

// Mirrored in Python.
struct Gradient {
  int64_t vectors, before, after, threads;  // N, D, E
  const BFloat16* x;                        // (N, D) with rows of `x_stride` values
  const BFloat16* dy;                       // (N, E)
  int64_t x_stride, dy_stride;
  float* dweight;  // (E, D)
};

namespace {

constexpr int64_t DEPTH = 512;       // vectors that are added up before the sums are written down
constexpr int64_t MOST_WIDTH = 1024;  // of what is packed of x at a time
constexpr int64_t HEIGHT = 128;       // of what is transposed of dy at a time

// The rows [e, e + height) and columns [d, d + width) of the gradient, of all vectors.
struct Tile {
  int64_t e, height, d, width;
};

void add_up(const Gradient& call, const Tile& tile, const Array<BFloat16>& packed, const Array<BFloat16>& turned) {
  for (int64_t n = 0; n < call.vectors; n += DEPTH) {
    const int64_t count = std::min(DEPTH, call.vectors - n), depth = round_up(count, STEP);
    pack_along(call.x + n * call.x_stride + tile.d, call.x_stride, count, tile.width, depth, packed);
    for (int64_t e = tile.e; e < tile.e + tile.height; e += HEIGHT) {
      const int64_t height = std::min(HEIGHT, tile.e + tile.height - e);
      transpose(call.dy + n * call.dy_stride + e, call.dy_stride, count, height, depth, turned);
      brgemm(height, tile.width, depth, depth, tile.width, call.before, n > 0, turned, packed,
             call.dweight + e * call.before + tile.d);
    }
  }
}

}  // namespace

extern "C" void weight_gradient(const Gradient* asked) {
  const Gradient& call = *asked;
  // The longer side is shared out: what is packed or transposed of the other side is so by every thread.
  const auto share = [&](int64_t size) { return round_up((size + call.threads - 1) / call.threads, STEP); };
  const bool tall = call.after >= call.before;
  const int64_t height = tall ? share(call.after) : call.after;
  const int64_t width = std::min(MOST_WIDTH, tall ? call.before : share(call.before));
  const int64_t down = (call.after + height - 1) / height, across = (call.before + width - 1) / width;
#pragma omp parallel num_threads(call.threads)
  {
    const Array<BFloat16> packed(DEPTH * width), turned(HEIGHT * DEPTH);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < down * across; ++n) {
      const int64_t e = n / across * height, d = n % across * width;
      add_up(call, {e, std::min(height, call.after - e), d, std::min(width, call.before - d)}, packed, turned);
    }
    at::native::cpublas::brgemm_release();
  }
}
