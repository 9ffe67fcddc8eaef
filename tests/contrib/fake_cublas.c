/* Stands in for cuBLAS and cuBLASLt: checks what it is told, computes on the host, writes down each call. */
#include "fake.h"

enum { HANDLE = 1, LT, DESC, LAYOUT, PREFERENCE };
int cublasCreate_v2(fake_object **place) { return fake_new(place, HANDLE); }
int cublasDestroy_v2(fake_object *object) { return fake_end(object, HANDLE); }
int cublasSetStream_v2(fake_object *handle, void *stream) { return fake_call("cublasSetStream", "%ld", (long)stream); }

static int types(int a, int b, int c, int compute) {
  if (a != b || a != c) return 15;
  return a == 0 ? compute == 68 ? 0 : 15 : a == 1 ? compute == 70 ? 0 : 15 : 15; /* float32 and float64 only */
}
static double real(const void *p, int wide) { return wide ? *(const double *)p : *(const float *)p; }
static int narrow(int t, int rows, int columns, int ld) { return ld < (t ? columns : rows); }

int cublasGemmEx(fake_object *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at,
                 int lda, const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc, int compute,
                 int algo) {
  int status = fake_call("cublasGemmEx", "%d%d %d %d %d, %d", ta, tb, m, n, k, compute);
  if (status || (status = types(at, bt, ct, compute))) return status;
  if (handle->kind != HANDLE || narrow(ta, m, k, lda) || narrow(tb, k, n, ldb) || ldc < m || algo != -1) return 7;
  fake_gemm(ta, tb, m, n, k, real(alpha, at), a, lda, b, ldb, real(beta, at), c, ldc, at);
  return 0;
}
int cublasGemmStridedBatchedEx(fake_object *handle, int ta, int tb, int m, int n, int k, const void *alpha,
                               const char *a, int at, int lda, long long sa, const char *b, int bt, int ldb,
                               long long sb, const void *beta, char *c, int ct, int ldc, long long sc, int count,
                               int compute, int algo) {
  int status = fake_call("cublasGemmStridedBatchedEx", "%d%d %d %d %d, %lld %lld %lld, %d", ta, tb, m, n, k, sa, sb, sc,
                         count), size = at ? 8 : 4;
  if (status || (status = types(at, bt, ct, compute))) return status;
  if (narrow(ta, m, k, lda) || narrow(tb, k, n, ldb) || ldc < m || sc < (long long)m * n || algo != -1) return 7;
  for (int i = 0; i < count; ++i)
    fake_gemm(ta, tb, m, n, k, real(alpha, at), a + i * sa * size, lda, b + i * sb * size, ldb, real(beta, at),
              c + i * sc * size, ldc, at);
  return 0;
}

int cublasLtCreate(fake_object **place) { return fake_new(place, LT); }
int cublasLtDestroy(fake_object *object) { return fake_end(object, LT); }
int cublasLtMatmulDescCreate(fake_object **place, int compute, int scale) {
  fake_new(place, DESC);
  (*place)->v[10] = compute, (*place)->v[7] = 1;
  return scale == 0 && compute == 68 ? 0 : 15;
}
int cublasLtMatmulDescDestroy(fake_object *object) { return fake_end(object, DESC); }
int cublasLtMatmulDescSetAttribute(fake_object *o, int name, const void *value, size_t size) {
  if (o->kind != DESC || size != (name == 8 ? 8 : 4)) return 7;
  if (name == 8) memcpy(&o->stream, value, 8);
  else if (name == 3 || name == 4 || name == 7) memcpy(&o->v[name], value, 4);
  else return 7;
  return 0;
}
int cublasLtMatrixLayoutCreate(fake_object **place, int type, size_t rows, size_t columns, long long ld) {
  fake_new(place, LAYOUT);
  (*place)->v[0] = type, (*place)->v[1] = (int)rows, (*place)->v[2] = (int)columns, (*place)->v[3] = (int)ld;
  return ld < (long long)rows ? 7 : 0;
}
int cublasLtMatrixLayoutDestroy(fake_object *object) { return fake_end(object, LAYOUT); }
int cublasLtMatmulPreferenceCreate(fake_object **place) { return fake_new(place, PREFERENCE); }
int cublasLtMatmulPreferenceDestroy(fake_object *object) { return fake_end(object, PREFERENCE); }
int cublasLtMatmulPreferenceSetAttribute(fake_object *o, int name, const void *value, size_t size) {
  if (o->kind != PREFERENCE) return 7;
  if (name >= 5 && name <= 8) return size != 4 || *(const unsigned *)value != 16 ? 7 : (++o->v[0], 0);
  if (name != 1 || size != 8) return 7;
  memcpy(&o->d, value, 8);
  return 0;
}
typedef struct { unsigned long long algo[8]; size_t workspace; int state; float waves; int reserved[4]; } heuristic;

static int shapes(fake_object *how, fake_object *a, fake_object *b, fake_object *c) {
  if (how->kind != DESC || a->kind != LAYOUT || b->kind != LAYOUT || c->kind != LAYOUT) return 7;
  if (a->v[0] || b->v[0] || c->v[0]) return 15;
  int ta = how->v[3], tb = how->v[4];
  int m = a->v[ta ? 2 : 1], k = a->v[ta ? 1 : 2];
  return m != c->v[1] || k != b->v[tb ? 2 : 1] || b->v[tb ? 1 : 2] != c->v[2] ? 7 : 0;
}
int cublasLtMatmulAlgoGetHeuristic(fake_object *handle, fake_object *how, fake_object *a, fake_object *b, fake_object *c,
                                   fake_object *d, fake_object *wish, int wanted, heuristic *found, int *count) {
  int status = fake_call("cublasLtMatmulAlgoGetHeuristic", "%d", wanted);
  if (status == -1) return *count = 0;
  if (status || (status = shapes(how, a, b, c))) return status;
  if (handle->kind != LT || wish->kind != PREFERENCE || c != d || wish->v[0] != 4 || !wish->d) return 7;
  if ((how->v[7] & 4) && how->stream != (void *)16) return 7;
  found->algo[7] = 1234, found->workspace = 512, found->state = 0, *count = 1;
  return 0;
}
int cublasLtMatmul(fake_object *handle, fake_object *how, const float *alpha, const float *a, fake_object *la,
                   const float *b, fake_object *lb, const float *beta, const float *c, fake_object *lc, float *d,
                   fake_object *ld, const unsigned long long *algo, void *space, size_t size, void *stream) {
  int epilogue = how->v[7], status = fake_call("cublasLtMatmul", "%d, %zu, %ld", epilogue, size, (long)stream);
  if (status || (status = shapes(how, la, lb, lc))) return status;
  if (algo[7] != 1234 || size != 512 || !space || *alpha != 1 || *beta || c != d || lc != ld) return 7;
  int m = ld->v[1], n = ld->v[2], width = ld->v[3], k = la->v[how->v[3] ? 1 : 2];
  fake_gemm(how->v[3], how->v[4], m, n, k, 1, a, la->v[3], b, lb->v[3], 0, d, width, 0);
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
      double x = d[j * width + i];
      if (epilogue & 4) x += ((float *)how->stream)[i];
      if (epilogue & 2) x = x < 0 ? 0 : x;
      if (epilogue & 32) x = 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
      d[j * width + i] = (float)x;
    }
  return 0;
}
