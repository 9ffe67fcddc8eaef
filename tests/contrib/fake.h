/* What libraries that stand in for vendors' share: a log of calls, objects, and failures on demand. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char fake_text[1 << 18], fake_failing[128];
static int fake_status, fake_alive;

const char *fake_log(void) { return fake_text; }
int fake_objects(void) { return fake_alive; }
void fake_clear(void) { fake_text[0] = fake_failing[0] = 0; }
void fake_fail(const char *name, int status) { strcpy(fake_failing, name); fake_status = status; }

static int fake_call(const char *name, const char *format, ...) {
  size_t used = strlen(fake_text);
  va_list list;
  used += snprintf(fake_text + used, sizeof fake_text - used, "%s(", name);
  va_start(list, format);
  used += vsnprintf(fake_text + used, sizeof fake_text - used, format, list);
  va_end(list);
  snprintf(fake_text + used, sizeof fake_text - used, ")\n");
  return strcmp(name, fake_failing) ? 0 : fake_status;
}

/* An object of any kind; what ends it must be of the same. */
typedef struct { int kind, v[12]; double d; void *stream; } fake_object;
static int fake_new(fake_object **place, int kind) {
  *place = calloc(1, sizeof **place);
  (*place)->kind = kind;
  ++fake_alive;
  return 0;
}
static int fake_end(fake_object *object, int kind) {
  if (object->kind != kind) return 99;
  object->kind = 0; /* not freed: a use after the end is seen */
  --fake_alive;
  return 0;
}

static void fake_conv(const float *x, const int *xs, const float *w, const int *ws, float *y, const int *ys, const int *c,
                      int groups) {
  /* c: padding, strides, dilation */
  for (int n = 0; n < ys[0]; ++n)
    for (int o = 0; o < ys[1]; ++o)
      for (int i = 0; i < ys[2]; ++i)
        for (int j = 0; j < ys[3]; ++j) {
          double sum = 0;
          for (int k = 0; k < ws[1]; ++k)
            for (int a = 0; a < ws[2]; ++a)
              for (int b = 0; b < ws[3]; ++b) {
                int r = i * c[2] - c[0] + a * c[4], s = j * c[3] - c[1] + b * c[5];
                int in = o / (ys[1] / groups) * ws[1] + k;
                if (r < 0 || s < 0 || r >= xs[2] || s >= xs[3]) continue;
                sum += (double)x[((n * xs[1] + in) * xs[2] + r) * xs[3] + s] * w[((o * ws[1] + k) * ws[2] + a) * ws[3] + b];
              }
          y[((n * ys[1] + o) * ys[2] + i) * ys[3] + j] = (float)sum;
        }
}

/* kind: 0 largest, 1 average with padding, 2 average of data; p: window, padding, strides */
static void fake_pool(const float *x, const int *xs, float *y, const int *ys, const int *p, int kind) {
  for (int n = 0; n < ys[0] * ys[1]; ++n)
    for (int i = 0; i < ys[2]; ++i)
      for (int j = 0; j < ys[3]; ++j) {
        double sum = 0, most = -INFINITY;
        int count = 0;
        for (int a = 0; a < p[0]; ++a)
          for (int b = 0; b < p[1]; ++b) {
            int r = i * p[4] - p[2] + a, s = j * p[5] - p[3] + b;
            if (r < 0 || s < 0 || r >= xs[2] || s >= xs[3]) continue;
            double value = x[(n * xs[2] + r) * xs[3] + s];
            sum += value, ++count, most = value > most || value != value ? value : most;
          }
        y[(n * ys[2] + i) * ys[3] + j] = (float)(kind == 0 ? most : sum / (kind == 1 ? p[0] * p[1] : count));
      }
}

/* Along the second axis of (n, c, h, 1). */
static void fake_softmax(const float *x, float *y, const int *s, int log_of) {
  for (int n = 0; n < s[0]; ++n)
    for (int h = 0; h < s[2] * s[3]; ++h) {
      double most = -INFINITY, sum = 0;
#define AT(c) ((n * s[1] + (c)) * s[2] * s[3] + h)
      for (int c = 0; c < s[1]; ++c) most = fmax(most, x[AT(c)]);
      for (int c = 0; c < s[1]; ++c) sum += exp(x[AT(c)] - most);
      for (int c = 0; c < s[1]; ++c)
        y[AT(c)] = (float)(log_of ? x[AT(c)] - most - log(sum) : exp(x[AT(c)] - most) / sum);
    }
}

/* In column order, doubles inside; wide: float64. */
static void fake_gemm(int ta, int tb, int m, int n, int k, double alpha, const void *a, int lda, const void *b, int ldb,
                      double beta, void *c, int ldc, int wide) {
#define GET(p, i) (wide ? ((const double *)(p))[i] : ((const float *)(p))[i])
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l) sum += GET(a, ta ? i * lda + l : l * lda + i) * GET(b, tb ? l * ldb + j : j * ldb + l);
      sum = alpha * sum + (beta ? beta * GET(c, j * ldc + i) : 0);
      if (wide) ((double *)c)[j * ldc + i] = sum; else ((float *)c)[j * ldc + i] = (float)sum;
    }
}
