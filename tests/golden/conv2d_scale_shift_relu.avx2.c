typedef float v8f32 __attribute__((vector_size(32)));
typedef float v8f32u __attribute__((vector_size(32), aligned(4), may_alias));
static inline v8f32 fw_splat_v8f32(float a) { return (v8f32){a, a, a, a, a, a, a, a}; }
typedef float v4f32 __attribute__((vector_size(16)));
typedef float v4f32u __attribute__((vector_size(16), aligned(4), may_alias));
static inline v4f32 fw_splat_v4f32(float a) { return (v4f32){a, a, a, a}; }
static inline v8f32 fw_fma_v8f32(v8f32 a, v8f32 b, v8f32 c) { return a * b + c; }
typedef int32_t v8i32 __attribute__((vector_size(32)));
typedef int32_t v8i32u __attribute__((vector_size(32), aligned(4), may_alias));
static inline v8f32 fw_maxc_v8f32(v8f32 a, float b) {
#if defined(__AVX__)
  v8f32 r, c = (v8f32){0} + b;
  __asm__("vmaxps\t%2, %1, %0" : "=v"(r) : "v"(c), "v"(a));
  return r;
#else
  v8i32 m = a < b;
  return (v8f32)((m & (v8i32)((v8f32){0} + b)) | (~m & (v8i32)a));
#endif
}
static inline v4f32 fw_fma_v4f32(v4f32 a, v4f32 b, v4f32 c) { return a * b + c; }
typedef int32_t v4i32 __attribute__((vector_size(16)));
typedef int32_t v4i32u __attribute__((vector_size(16), aligned(4), may_alias));
static inline v4f32 fw_maxc_v4f32(v4f32 a, float b) {
#if defined(__AVX__)
  v4f32 r, c = (v4f32){0} + b;
  __asm__("vmaxps\t%2, %1, %0" : "=v"(r) : "v"(c), "v"(a));
  return r;
#else
  v4i32 m = a < b;
  return (v4f32)((m & (v4i32)((v4f32){0} + b)) | (~m & (v4i32)a));
#endif
}

void KERNEL(void *const *restrict args, int tid, int nthreads, fw_team *team,
    char *restrict thread_scratch, char *restrict team_scratch)
{
  const float *restrict p0 = args[0];
  const float *restrict p1 = args[1];
  const float *restrict p3 = args[3];
  float *restrict out = args[4];
  float *restrict bordered = (float *)(team_scratch + 0);
  for (int64_t brow = 3 * tid / nthreads, brow_end = 3 * (tid + 1) / nthreads; brow < brow_end; ++brow) {
    for (int64_t bxv = 0; bxv < 2; ++bxv) {
      *(v8f32u *)&bordered[220 * brow + 8 * bxv] = fw_splat_v8f32(0.0f);
    }
    *(v4f32u *)&bordered[220 * brow + 16] = fw_splat_v4f32(0.0f);
    for (int64_t bxt20 = 0; bxt20 < 2; ++bxt20) {
      bordered[220 * brow + bxt20 + 20] = 0.0f;
    }
  }
  for (int64_t brow_2 = 24 * tid / nthreads, brow_2_end = 24 * (tid + 1) / nthreads; brow_2 < brow_2_end; ++brow_2) {
    bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 22] = 0.0f;
    for (int64_t bx_2v = 0; bx_2v < 2; ++bx_2v) {
      *(v8f32u *)&bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 8 * bx_2v + 23] = (*(const v8f32u *)&p0[20 * brow_2 + 8 * bx_2v]);
    }
    *(v4f32u *)&bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 39] = (*(const v4f32u *)&p0[20 * brow_2 + 16]);
    bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 43] = 0.0f;
  }
  for (int64_t brow_3 = 3 * tid / nthreads, brow_3_end = 3 * (tid + 1) / nthreads; brow_3 < brow_3_end; ++brow_3) {
    for (int64_t bx_3v = 0; bx_3v < 2; ++bx_3v) {
      *(v8f32u *)&bordered[220 * brow_3 + 8 * bx_3v + 198] = fw_splat_v8f32(0.0f);
    }
    *(v4f32u *)&bordered[220 * brow_3 + 214] = fw_splat_v4f32(0.0f);
    for (int64_t bx_3t20 = 0; bx_3t20 < 2; ++bx_3t20) {
      bordered[220 * brow_3 + bx_3t20 + 218] = 0.0f;
    }
  }
  fw_barrier(team, tid);
  for (int64_t block = 32 * tid / nthreads, block_end = 32 * (tid + 1) / nthreads; block < block_end; ++block) {
    for (int64_t vv = 0; vv < 1; ++vv) {
      v8f32 acc_0;
      v8f32 acc_1;
      v8f32 acc_2;
      v8f32 acc_3;
      v8f32 acc_4;
      v8f32 acc_5;
      v8f32 acc_6;
      v8f32 acc_7;
      acc_0 = fw_splat_v8f32(0.0f);
      acc_4 = fw_splat_v8f32(0.0f);
      acc_1 = fw_splat_v8f32(0.0f);
      acc_5 = fw_splat_v8f32(0.0f);
      acc_2 = fw_splat_v8f32(0.0f);
      acc_6 = fw_splat_v8f32(0.0f);
      acc_3 = fw_splat_v8f32(0.0f);
      acc_7 = fw_splat_v8f32(0.0f);
      _Pragma("GCC unroll 1") for (int64_t cb = 0; cb < 3; ++cb) {
        _Pragma("GCC unroll 1") for (int64_t kh = 0; kh < 3; ++kh) {
          _Pragma("GCC unroll 1") for (int64_t kw = 0; kw < 3; ++kw) {
            acc_0 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw]), acc_0);
            acc_4 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw + 8]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw]), acc_4);
            acc_1 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw + 1]), acc_1);
            acc_5 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw + 8]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw + 1]), acc_5);
            acc_2 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw + 2]), acc_2);
            acc_6 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw + 8]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw + 2]), acc_6);
            acc_3 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw + 3]), acc_3);
            acc_7 = fw_fma_v8f32((*(const v8f32u *)&bordered[220 * cb + 22 * (block % 8) + 22 * kh + kw + 8]), fw_splat_v8f32(p1[108 * (block / 8) + 36 * cb + 12 * kh + 4 * kw + 3]), acc_7);
          }
        }
      }
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8)] = fw_maxc_v8f32((acc_0 + fw_splat_v8f32(p3[4 * (block / 8)])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 8] = fw_maxc_v8f32((acc_4 + fw_splat_v8f32(p3[4 * (block / 8)])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 160] = fw_maxc_v8f32((acc_1 + fw_splat_v8f32(p3[4 * (block / 8) + 1])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 168] = fw_maxc_v8f32((acc_5 + fw_splat_v8f32(p3[4 * (block / 8) + 1])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 320] = fw_maxc_v8f32((acc_2 + fw_splat_v8f32(p3[4 * (block / 8) + 2])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 328] = fw_maxc_v8f32((acc_6 + fw_splat_v8f32(p3[4 * (block / 8) + 2])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 480] = fw_maxc_v8f32((acc_3 + fw_splat_v8f32(p3[4 * (block / 8) + 3])), 0.0f);
      *(v8f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 488] = fw_maxc_v8f32((acc_7 + fw_splat_v8f32(p3[4 * (block / 8) + 3])), 0.0f);
    }
    for (int64_t v_2v = 0; v_2v < 1; ++v_2v) {
      v4f32 acc_2_0;
      v4f32 acc_2_1;
      v4f32 acc_2_2;
      v4f32 acc_2_3;
      acc_2_0 = fw_splat_v4f32(0.0f);
      acc_2_1 = fw_splat_v4f32(0.0f);
      acc_2_2 = fw_splat_v4f32(0.0f);
      acc_2_3 = fw_splat_v4f32(0.0f);
      _Pragma("GCC unroll 1") for (int64_t cb_2 = 0; cb_2 < 3; ++cb_2) {
        _Pragma("GCC unroll 1") for (int64_t kh_2 = 0; kh_2 < 3; ++kh_2) {
          _Pragma("GCC unroll 1") for (int64_t kw_2 = 0; kw_2 < 3; ++kw_2) {
            acc_2_0 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * (block % 8) + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[108 * (block / 8) + 36 * cb_2 + 12 * kh_2 + 4 * kw_2]), acc_2_0);
            acc_2_1 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * (block % 8) + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[108 * (block / 8) + 36 * cb_2 + 12 * kh_2 + 4 * kw_2 + 1]), acc_2_1);
            acc_2_2 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * (block % 8) + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[108 * (block / 8) + 36 * cb_2 + 12 * kh_2 + 4 * kw_2 + 2]), acc_2_2);
            acc_2_3 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * (block % 8) + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[108 * (block / 8) + 36 * cb_2 + 12 * kh_2 + 4 * kw_2 + 3]), acc_2_3);
          }
        }
      }
      *(v4f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 16] = fw_maxc_v4f32((acc_2_0 + fw_splat_v4f32(p3[4 * (block / 8)])), 0.0f);
      *(v4f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 176] = fw_maxc_v4f32((acc_2_1 + fw_splat_v4f32(p3[4 * (block / 8) + 1])), 0.0f);
      *(v4f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 336] = fw_maxc_v4f32((acc_2_2 + fw_splat_v4f32(p3[4 * (block / 8) + 2])), 0.0f);
      *(v4f32u *)&out[640 * (block / 8) + 20 * (block % 8) + 496] = fw_maxc_v4f32((acc_2_3 + fw_splat_v4f32(p3[4 * (block / 8) + 3])), 0.0f);
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
