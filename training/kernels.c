/* The passes over memory between the matrix products, each done once.
 *
 * In: pointers to float32 and bfloat16 (uint16) rows. Out: the same. kernels.py compiles this and gives every function its
 * slow twin in torch; without a C compiler the twins are used.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float up(bf16 v) { uint32_t u = (uint32_t)v << 16; float f; memcpy(&f, &u, 4); return f; }
static inline bf16 low(float f) {
    uint32_t u; memcpy(&u, &f, 4);
    return (bf16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* out = rms(x) * w, x float32 [n, d]; inv keeps 1 / rms of each row. */
void norm_forward(const float *x, const float *w, bf16 *out, float *inv, long n, long d, float eps, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < n; r++) {
        const float *a = x + r * d;
        float s = 0;
        for (long i = 0; i < d; i++) s += a[i] * a[i];
        float k = 1 / sqrtf(s / d + eps);
        inv[r] = k;
        for (long i = 0; i < d; i++) out[r * d + i] = low(a[i] * k * w[i]);
    }
}

/* gx from g bf16; gw [threads, d] is added to. */
void norm_backward(const float *x, const float *w, const float *inv, const bf16 *g, float *gx, float *gw, long n, long d, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) {
        float *own = gw + t * d;
        for (long r = n * t / threads; r < n * (t + 1) / threads; r++) {
            const float *a = x + r * d;
            const bf16 *b = g + r * d;
            float k = inv[r], s = 0;
            for (long i = 0; i < d; i++) { float e = up(b[i]); own[i] += e * a[i] * k; s += e * w[i] * a[i]; }
            s *= k * k * k / d;
            for (long i = 0; i < d; i++) gx[r * d + i] = up(b[i]) * w[i] * k - a[i] * s;
        }
    }
}

/* out = (x + rms(y) * w) * scalar, y bf16. */
void add_forward(const float *x, const bf16 *y, const float *w, float *out, float *inv, long n, long d, float eps, float scalar, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < n; r++) {
        const bf16 *a = y + r * d;
        float s = 0;
        for (long i = 0; i < d; i++) s += up(a[i]) * up(a[i]);
        float k = 1 / sqrtf(s / d + eps);
        inv[r] = k;
        for (long i = 0; i < d; i++) out[r * d + i] = (x[r * d + i] + up(a[i]) * k * w[i]) * scalar;
    }
}

void add_backward(const bf16 *y, const float *w, const float *inv, const float *g, float *gx, bf16 *gy, float *gw,
                  long n, long d, float scalar, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; t++) {
        float *own = gw + t * d;
        for (long r = n * t / threads; r < n * (t + 1) / threads; r++) {
            const bf16 *a = y + r * d;
            const float *b = g + r * d;
            float k = inv[r], s = 0;
            for (long i = 0; i < d; i++) {
                float e = b[i] * scalar, v = up(a[i]);
                gx[r * d + i] = e; own[i] += e * v * k; s += e * w[i] * v;
            }
            s *= k * k * k / d;
            for (long i = 0; i < d; i++) gy[r * d + i] = low(b[i] * scalar * w[i] * k - up(a[i]) * s);
        }
    }
}

/* h = gelu_tanh(gate) * up, gate_up bf16 [n, 2 f]. */
void geglu_forward(const bf16 *x, bf16 *out, long n, long f, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < n; r++)
        for (long i = 0; i < f; i++) {
            float a = up(x[r * 2 * f + i]), b = up(x[r * 2 * f + f + i]);
            float z = 1.5957691216f * (a + 0.044715f * a * a * a);
            z = z < -60 ? -60 : z > 60 ? 60 : z;               /* an infinite exp turns into NaN in fast arithmetic */
            out[r * f + i] = low(a / (1 + expf(-z)) * b);
        }
}

void geglu_backward(const bf16 *x, const bf16 *g, bf16 *gx, long n, long f, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < n; r++)
        for (long i = 0; i < f; i++) {
            float a = up(x[r * 2 * f + i]), b = up(x[r * 2 * f + f + i]), e = up(g[r * f + i]);
            float z = 1.5957691216f * (a + 0.044715f * a * a * a);
            z = z < -60 ? -60 : z > 60 ? 60 : z;               /* an infinite exp turns into NaN in fast arithmetic */
            float s = 1 / (1 + expf(-z));
            float slope = s + a * s * (1 - s) * 1.5957691216f * (1 + 0.134145f * a * a);
            gx[r * 2 * f + i] = low(e * b * slope);
            gx[r * 2 * f + f + i] = low(e * a * s);
        }
}

/* One head's slice of x bf16 [b, l, parts, d], from part `first` on, `heads` of them -> out bf16 [b, heads, l, d]:
 * rms, times w, turned by cos and sin [l, d / 2]; without w and cos only rms. */
void head_forward(const bf16 *x, const float *w, const float *cs, const float *sn, bf16 *out, float *inv,
                  long b, long l, long parts, long first, long heads, long d, float eps, int threads) {
    long half = d / 2;
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < b * l; r++)
        for (long h = 0; h < heads; h++) {
            const bf16 *a = x + (r * parts + first + h) * d;
            long to = ((r / l) * heads + h) * l + r % l;
            bf16 *o = out + to * d;
            float s = 0;
            for (long i = 0; i < d; i++) s += up(a[i]) * up(a[i]);
            float k = 1 / sqrtf(s / d + eps);
            inv[to] = k;
            if (!w) { for (long i = 0; i < d; i++) o[i] = low(up(a[i]) * k); continue; }
            const float *c = cs + (r % l) * half, *t = sn + (r % l) * half;
            for (long i = 0; i < half; i++) {
                float p = up(a[i]) * k * w[i], q = up(a[half + i]) * k * w[half + i];
                o[i] = low(p * c[i] - q * t[i]);
                o[half + i] = low(q * c[i] + p * t[i]);
            }
        }
}

/* gx float32 [b, l, parts, d] is added to, so that a part may be both key and value. */
void head_backward(const bf16 *x, const float *w, const float *cs, const float *sn, const float *inv, const bf16 *g, float *gx, float *gw,
                   long b, long l, long parts, long first, long heads, long d, int threads) {
    long half = d / 2;
#pragma omp parallel for num_threads(threads)
    for (int th = 0; th < threads; th++) {
        float *own = gw ? gw + th * d : 0, e[512];
        for (long r = b * l * th / threads; r < b * l * (th + 1) / threads; r++)
            for (long h = 0; h < heads; h++) {
                long at = (r * parts + first + h) * d, from = ((r / l) * heads + h) * l + r % l;
                const bf16 *a = x + at, *o = g + from * d;
                float k = inv[from], s = 0;
                if (w) {
                    const float *c = cs + (r % l) * half, *t = sn + (r % l) * half;
                    for (long i = 0; i < half; i++) {
                        float p = up(o[i]), q = up(o[half + i]);
                        e[i] = p * c[i] + q * t[i];
                        e[half + i] = q * c[i] - p * t[i];
                    }
                    for (long i = 0; i < d; i++) { own[i] += e[i] * up(a[i]) * k; e[i] *= w[i]; }
                } else for (long i = 0; i < d; i++) e[i] = up(o[i]);
                for (long i = 0; i < d; i++) s += e[i] * up(a[i]);
                s *= k * k * k / d;
                for (long i = 0; i < d; i++) gx[at + i] += e[i] * k - up(a[i]) * s;
            }
    }
}

/* s bf16 [b, heads, m, l] += mask bf16 [b, m, l], then softmax over l, in place. */
void softmax_forward(bf16 *s, const bf16 *mask, long b, long heads, long m, long l, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < b * heads * m; r++) {
        bf16 *a = s + r * l;
        const bf16 *k = mask + ((r / (heads * m)) * m + r % m) * l;
        float e[4096], top = -1e30f, sum = 0;
        for (long i = 0; i < l; i++) { e[i] = up(a[i]) + up(k[i]); top = e[i] > top ? e[i] : top; }
        for (long i = 0; i < l; i++) { e[i] = expf(e[i] - top); sum += e[i]; }
        sum = 1 / sum;
        for (long i = 0; i < l; i++) a[i] = low(e[i] * sum);
    }
}

/* g becomes the gradient of the scores: p (g - sum p g). */
void softmax_backward(const bf16 *p, bf16 *g, long rows, long l, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long r = 0; r < rows; r++) {
        float s = 0;
        for (long i = 0; i < l; i++) s += up(p[r * l + i]) * up(g[r * l + i]);
        for (long i = 0; i < l; i++) g[r * l + i] = low(up(p[r * l + i]) * (up(g[r * l + i]) - s));
    }
}
