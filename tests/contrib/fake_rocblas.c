/* Stands in for rocBLAS: checks what it is told, computes on the host, writes down each call. */
#include "fake.h"

int rocblas_create_handle(fake_object **place) { return fake_new(place, 1); }
int rocblas_destroy_handle(fake_object *object) { return fake_end(object, 1); }
int rocblas_set_stream(fake_object *handle, void *stream) { return fake_call("rocblas_set_stream", "%ld", (long)stream); }

static int wrong(int a, int b, int c, int d, int compute, int ta, int tb) {
  if (ta < 111 || ta > 112 || tb < 111 || tb > 112) return 11;
  return a != b || a != c || a != d || a != compute || (a != 151 && a != 152) ? 2 : 0;
}
static double real(const void *p, int wide) { return wide ? *(const double *)p : *(const float *)p; }

int rocblas_gemm_ex(fake_object *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at,
                    int lda, const void *b, int bt, int ldb, const void *beta, const void *c, int ct, int ldc, void *d,
                    int dt, int ldd, int compute, int algo, int solution, unsigned flags) {
  int status = fake_call("rocblas_gemm_ex", "%d %d %d %d %d, %d", ta, tb, m, n, k, compute), wide = at == 152;
  if (status || (status = wrong(at, bt, ct, dt, compute, ta, tb))) return status;
  if (handle->kind != 1 || c != d || ldc != ldd || algo || solution || flags) return 11;
  fake_gemm(ta == 112, tb == 112, m, n, k, real(alpha, wide), a, lda, b, ldb, real(beta, wide), d, ldd, wide);
  return 0;
}
int rocblas_gemm_strided_batched_ex(fake_object *handle, int ta, int tb, int m, int n, int k, const void *alpha,
                                    const char *a, int at, int lda, long long sa, const char *b, int bt, int ldb,
                                    long long sb, const void *beta, const char *c, int ct, int ldc, long long sc,
                                    char *d, int dt, int ldd, long long sd, int count, int compute, int algo,
                                    int solution, unsigned flags) {
  int wide = at == 152, size = wide ? 8 : 4;
  int status = fake_call("rocblas_gemm_strided_batched_ex", "%d %d %d %d %d, %lld %lld %lld, %d", ta, tb, m, n, k, sa,
                         sb, sd, count);
  if (status || (status = wrong(at, bt, ct, dt, compute, ta, tb))) return status;
  if (c != d || ldc != ldd || sc != sd || algo || solution || flags) return 11;
  for (int i = 0; i < count; ++i)
    fake_gemm(ta == 112, tb == 112, m, n, k, real(alpha, wide), a + i * sa * size, lda, b + i * sb * size, ldb,
              real(beta, wide), d + i * sd * size, ldd, wide);
  return 0;
}
