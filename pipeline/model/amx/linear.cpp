// Linear layers that read the same vectors, and their gradients. Interface, formulas and legend: linear.py. Compiled
// behind vectors.h and tiles.h.
//
// A thread takes some vectors at a time, for what layers say and for the gradient of x; and rows of weights, for their
// gradients: so each of these is one thread's, and added up in one order.

namespace {
constexpr int64_t MOST_LAYERS = 3;
constexpr int64_t PART = 256;  // vectors that are worked on at a time
}  // namespace

// A matrix and what is added to its products; null: no bias. Mirrored in Python.
struct Layer {
  int64_t size;                // E
  const float *weight, *bias;  // (E, D), (E)
  BFloat16* y;                 // (N, E)
  const BFloat16* dy;
  float *dweight, *dbias;
};

// What is asked for. Mirrored in Python.
struct Call {
  int64_t vectors, size, count, threads;  // N, D, of layers
  const BFloat16* x;                      // (N, D)
  BFloat16* dx;
  Layer layers[MOST_LAYERS];

  int64_t width() const {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += layers[i].size;
    return sum;
  }
  // As even shares of the vectors as can be, of at most PART.
  int64_t part() const { return std::min(PART, round_up((vectors + threads - 1) / threads, STEP)); }
};

namespace {

// 32 rows of one of the layers; `at` counts those of the layers before, too.
struct Panel {
  const Layer* layer;
  int64_t row, at;
};

std::vector<Panel> panels_of(const Call& call) {
  std::vector<Panel> panels;
  for (int64_t i = 0, at = 0; i < call.count; ++i)
    for (int64_t row = 0; row < call.layers[i].size; row += STEP, at += STEP)
      panels.push_back({call.layers + i, row, at});
  return panels;
}

void forward(const Call& call) {
  const int64_t D = call.size, part = call.part();
  const std::vector<Panel> panels = panels_of(call);
  const Array<BFloat16> weights(call.width() * D);
#pragma omp parallel num_threads(call.threads)
  {
#pragma omp for schedule(static)
    for (size_t p = 0; p < panels.size(); ++p)
      tile_across(panels[p].layer->weight + panels[p].row * D, D, D, weights + panels[p].at * D);
    const Array<BFloat16> x(part * D);
    const Tiles tiles;
    alignas(64) float block[BLOCK];
#pragma omp for schedule(static)
    for (int64_t begin = 0; begin < call.vectors; begin += part) {
      const int64_t count = std::min(part, call.vectors - begin);
      tile_rows(call.x + begin * D, D, count, D, round_up(count, STEP), x);
      for (const auto& [layer, row, at] : panels)
        for (int64_t n = 0; n < count; n += STEP) {
          multiply({x + n * D, weights + at * D, D / STEP, block, false});
          write_rounded(block, layer->bias ? layer->bias + row : nullptr, std::min(STEP, count - n),
                        layer->y + (begin + n) * layer->size + row, layer->size);
        }
    }
  }
}

// The gradient of x of `count` vectors from `begin` on. `dy` and `block` are of one thread.
void differentiate_x(const Call& call, const BFloat16* weights, int64_t begin, int64_t count, BFloat16* dy,
                     float* block) {
  const int64_t D = call.size, E = call.width(), rows = round_up(count, STEP);
  int64_t before = 0;
  for (int64_t i = 0; i < call.count; before += call.layers[i++].size) {
    const Layer& layer = call.layers[i];
    tile_rows(layer.dy + begin * layer.size, layer.size, count, layer.size, rows, dy + before * rows);
  }
  for (int64_t d = 0; d < D; d += STEP)
    for (int64_t n = 0; n < rows; n += STEP) {
      before = 0;
      for (int64_t i = 0; i < call.count; before += call.layers[i++].size) {
        const int64_t size = call.layers[i].size;
        multiply({dy + before * rows + n * size, weights + d * E + before * STEP, size / STEP, block, i > 0});
      }
      write_rounded(block, nullptr, std::min(STEP, count - n), call.dx + (begin + n) * D + d, D);
    }
}

// The gradients of the weights and biases of panels [first, end).
void differentiate_weights(const Call& call, const Panel* first, const Panel* end) {
  const int64_t D = call.size, part = std::min(PART, round_up(call.vectors, STEP));
  const Array<BFloat16> x(part * D), dy(part * STEP);
  const Array<float> sums((end - first) * STEP * D);
  for (int64_t begin = 0; begin < call.vectors; begin += part) {
    const int64_t count = std::min(part, call.vectors - begin), rows = round_up(count, STEP);
    tile_pairs(call.x + begin * D, D, count, D, rows, part * STEP, x);
    for (const Panel* panel = first; panel < end; ++panel) {
      const int64_t E = panel->layer->size;
      turn_rows(panel->layer->dy + begin * E + panel->row, E, count, rows, dy);
      for (int64_t d = 0; d < D; d += STEP)
        multiply({dy, x + d * part, rows / STEP, sums + (panel - first) * STEP * D + d * STEP, begin > 0});
    }
  }
  for (const Panel* panel = first; panel < end; ++panel) {
    const Layer& layer = *panel->layer;
    for (int64_t d = 0; d < D; d += STEP)
      write_block(sums + (panel - first) * STEP * D + d * STEP, STEP, layer.dweight + panel->row * D + d, D);
    if (layer.dbias) add_up_columns(layer.dy + panel->row, layer.size, call.vectors, layer.dbias + panel->row);
  }
}

void backward(const Call& call) {
  const int64_t D = call.size, E = call.width(), part = call.part();
  const std::vector<Panel> panels = panels_of(call);
  const Array<BFloat16> weights(D * E);
  const int64_t many = panels.size(), share = (many + call.threads - 1) / call.threads;
#pragma omp parallel num_threads(call.threads)
  {
#pragma omp for schedule(static) nowait
    for (int64_t p = 0; p < many; ++p) {
      const auto& [layer, row, at] = panels[p];
      tile_pairs(layer->weight + row * D, D, STEP, D, STEP, E * STEP, weights + at * STEP);
    }
    const Tiles tiles;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < many; first += share)
      differentiate_weights(call, &panels[first], &panels[first] + std::min(share, many - first));
    const Array<BFloat16> dy(part * E);
    alignas(64) float block[BLOCK];
#pragma omp for schedule(static)
    for (int64_t begin = 0; begin < call.vectors; begin += part)
      differentiate_x(call, weights, begin, std::min(part, call.vectors - begin), dy, block);
  }
}

}  // namespace

extern "C" void linear(const Call* call) { forward(*call); }
extern "C" void linear_backward(const Call* call) { backward(*call); }
