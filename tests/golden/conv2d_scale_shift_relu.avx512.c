typedef float v16f32 __attribute__((vector_size(64)));
typedef float v16f32u __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16f32 fw_splat_v16f32(float a) { return (v16f32){a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a}; }
typedef float v4f32 __attribute__((vector_size(16)));
typedef float v4f32u __attribute__((vector_size(16), aligned(4), may_alias));
static inline v4f32 fw_splat_v4f32(float a) { return (v4f32){a, a, a, a}; }
static inline v16f32 fw_fma_v16f32(v16f32 a, v16f32 b, v16f32 c) { return a * b + c; }
typedef int32_t v16i32 __attribute__((vector_size(64)));
typedef int32_t v16i32u __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16f32 fw_maxc_v16f32(v16f32 a, float b) {
#if defined(__AVX512F__)
  v16f32 r, c = (v16f32){0} + b;
  __asm__("vmaxps\t%2, %1, %0" : "=v"(r) : "v"(c), "v"(a));
  return r;
#else
  v16i32 m = a < b;
  return (v16f32)((m & (v16i32)((v16f32){0} + b)) | (~m & (v16i32)a));
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
    *(v16f32u *)&bordered[220 * brow] = fw_splat_v16f32(0.0f);
    *(v4f32u *)&bordered[220 * brow + 16] = fw_splat_v4f32(0.0f);
    for (int64_t bxt20 = 0; bxt20 < 2; ++bxt20) {
      bordered[220 * brow + bxt20 + 20] = 0.0f;
    }
  }
  for (int64_t brow_2 = 24 * tid / nthreads, brow_2_end = 24 * (tid + 1) / nthreads; brow_2 < brow_2_end; ++brow_2) {
    bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 22] = 0.0f;
    *(v16f32u *)&bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 23] = (*(const v16f32u *)&p0[20 * brow_2]);
    *(v4f32u *)&bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 39] = (*(const v4f32u *)&p0[20 * brow_2 + 16]);
    bordered[220 * (brow_2 / 8) + 22 * (brow_2 % 8) + 43] = 0.0f;
  }
  for (int64_t brow_3 = 3 * tid / nthreads, brow_3_end = 3 * (tid + 1) / nthreads; brow_3 < brow_3_end; ++brow_3) {
    *(v16f32u *)&bordered[220 * brow_3 + 198] = fw_splat_v16f32(0.0f);
    *(v4f32u *)&bordered[220 * brow_3 + 214] = fw_splat_v4f32(0.0f);
    for (int64_t bx_3t20 = 0; bx_3t20 < 2; ++bx_3t20) {
      bordered[220 * brow_3 + bx_3t20 + 218] = 0.0f;
    }
  }
  fw_barrier(team, tid);
  if (tid == 0) {
    for (int64_t block = 0; block < 8; ++block) {
      for (int64_t vv = 0; vv < 1; ++vv) {
        v16f32 acc_0;
        v16f32 acc_1;
        v16f32 acc_2;
        v16f32 acc_3;
        v16f32 acc_4;
        v16f32 acc_5;
        acc_0 = fw_splat_v16f32(0.0f);
        acc_1 = fw_splat_v16f32(0.0f);
        acc_2 = fw_splat_v16f32(0.0f);
        acc_3 = fw_splat_v16f32(0.0f);
        acc_4 = fw_splat_v16f32(0.0f);
        acc_5 = fw_splat_v16f32(0.0f);
        _Pragma("GCC unroll 1") for (int64_t cb = 0; cb < 3; ++cb) {
          _Pragma("GCC unroll 1") for (int64_t kh = 0; kh < 3; ++kh) {
            _Pragma("GCC unroll 1") for (int64_t kw = 0; kw < 3; ++kw) {
              acc_0 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb + 22 * block + 22 * kh + kw]), fw_splat_v16f32(p1[54 * cb + 18 * kh + 6 * kw]), acc_0);
              acc_1 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb + 22 * block + 22 * kh + kw]), fw_splat_v16f32(p1[54 * cb + 18 * kh + 6 * kw + 1]), acc_1);
              acc_2 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb + 22 * block + 22 * kh + kw]), fw_splat_v16f32(p1[54 * cb + 18 * kh + 6 * kw + 2]), acc_2);
              acc_3 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb + 22 * block + 22 * kh + kw]), fw_splat_v16f32(p1[54 * cb + 18 * kh + 6 * kw + 3]), acc_3);
              acc_4 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb + 22 * block + 22 * kh + kw]), fw_splat_v16f32(p1[54 * cb + 18 * kh + 6 * kw + 4]), acc_4);
              acc_5 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb + 22 * block + 22 * kh + kw]), fw_splat_v16f32(p1[54 * cb + 18 * kh + 6 * kw + 5]), acc_5);
            }
          }
        }
        *(v16f32u *)&out[20 * block] = fw_maxc_v16f32((acc_0 + fw_splat_v16f32(p3[0])), 0.0f);
        *(v16f32u *)&out[20 * block + 160] = fw_maxc_v16f32((acc_1 + fw_splat_v16f32(p3[1])), 0.0f);
        *(v16f32u *)&out[20 * block + 320] = fw_maxc_v16f32((acc_2 + fw_splat_v16f32(p3[2])), 0.0f);
        *(v16f32u *)&out[20 * block + 480] = fw_maxc_v16f32((acc_3 + fw_splat_v16f32(p3[3])), 0.0f);
        *(v16f32u *)&out[20 * block + 640] = fw_maxc_v16f32((acc_4 + fw_splat_v16f32(p3[4])), 0.0f);
        *(v16f32u *)&out[20 * block + 800] = fw_maxc_v16f32((acc_5 + fw_splat_v16f32(p3[5])), 0.0f);
      }
      for (int64_t v_2v = 0; v_2v < 1; ++v_2v) {
        v4f32 acc_2_0;
        v4f32 acc_2_1;
        v4f32 acc_2_2;
        v4f32 acc_2_3;
        v4f32 acc_2_4;
        v4f32 acc_2_5;
        acc_2_0 = fw_splat_v4f32(0.0f);
        acc_2_1 = fw_splat_v4f32(0.0f);
        acc_2_2 = fw_splat_v4f32(0.0f);
        acc_2_3 = fw_splat_v4f32(0.0f);
        acc_2_4 = fw_splat_v4f32(0.0f);
        acc_2_5 = fw_splat_v4f32(0.0f);
        _Pragma("GCC unroll 1") for (int64_t cb_2 = 0; cb_2 < 3; ++cb_2) {
          _Pragma("GCC unroll 1") for (int64_t kh_2 = 0; kh_2 < 3; ++kh_2) {
            _Pragma("GCC unroll 1") for (int64_t kw_2 = 0; kw_2 < 3; ++kw_2) {
              acc_2_0 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * block + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[54 * cb_2 + 18 * kh_2 + 6 * kw_2]), acc_2_0);
              acc_2_1 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * block + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[54 * cb_2 + 18 * kh_2 + 6 * kw_2 + 1]), acc_2_1);
              acc_2_2 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * block + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[54 * cb_2 + 18 * kh_2 + 6 * kw_2 + 2]), acc_2_2);
              acc_2_3 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * block + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[54 * cb_2 + 18 * kh_2 + 6 * kw_2 + 3]), acc_2_3);
              acc_2_4 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * block + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[54 * cb_2 + 18 * kh_2 + 6 * kw_2 + 4]), acc_2_4);
              acc_2_5 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_2 + 22 * block + 22 * kh_2 + kw_2 + 16]), fw_splat_v4f32(p1[54 * cb_2 + 18 * kh_2 + 6 * kw_2 + 5]), acc_2_5);
            }
          }
        }
        *(v4f32u *)&out[20 * block + 16] = fw_maxc_v4f32((acc_2_0 + fw_splat_v4f32(p3[0])), 0.0f);
        *(v4f32u *)&out[20 * block + 176] = fw_maxc_v4f32((acc_2_1 + fw_splat_v4f32(p3[1])), 0.0f);
        *(v4f32u *)&out[20 * block + 336] = fw_maxc_v4f32((acc_2_2 + fw_splat_v4f32(p3[2])), 0.0f);
        *(v4f32u *)&out[20 * block + 496] = fw_maxc_v4f32((acc_2_3 + fw_splat_v4f32(p3[3])), 0.0f);
        *(v4f32u *)&out[20 * block + 656] = fw_maxc_v4f32((acc_2_4 + fw_splat_v4f32(p3[4])), 0.0f);
        *(v4f32u *)&out[20 * block + 816] = fw_maxc_v4f32((acc_2_5 + fw_splat_v4f32(p3[5])), 0.0f);
      }
    }
    for (int64_t block_2 = 0; block_2 < 16; ++block_2) {
      for (int64_t v_3v = 0; v_3v < 1; ++v_3v) {
        v16f32 acc_3_0;
        v16f32 acc_3_1;
        v16f32 acc_3_2;
        v16f32 acc_3_3;
        v16f32 acc_3_4;
        acc_3_0 = fw_splat_v16f32(0.0f);
        acc_3_1 = fw_splat_v16f32(0.0f);
        acc_3_2 = fw_splat_v16f32(0.0f);
        acc_3_3 = fw_splat_v16f32(0.0f);
        acc_3_4 = fw_splat_v16f32(0.0f);
        _Pragma("GCC unroll 1") for (int64_t cb_3 = 0; cb_3 < 3; ++cb_3) {
          _Pragma("GCC unroll 1") for (int64_t kh_3 = 0; kh_3 < 3; ++kh_3) {
            _Pragma("GCC unroll 1") for (int64_t kw_3 = 0; kw_3 < 3; ++kw_3) {
              acc_3_0 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb_3 + 22 * (block_2 % 8) + 22 * kh_3 + kw_3]), fw_splat_v16f32(p1[135 * (block_2 / 8) + 45 * cb_3 + 15 * kh_3 + 5 * kw_3 + 162]), acc_3_0);
              acc_3_1 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb_3 + 22 * (block_2 % 8) + 22 * kh_3 + kw_3]), fw_splat_v16f32(p1[135 * (block_2 / 8) + 45 * cb_3 + 15 * kh_3 + 5 * kw_3 + 163]), acc_3_1);
              acc_3_2 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb_3 + 22 * (block_2 % 8) + 22 * kh_3 + kw_3]), fw_splat_v16f32(p1[135 * (block_2 / 8) + 45 * cb_3 + 15 * kh_3 + 5 * kw_3 + 164]), acc_3_2);
              acc_3_3 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb_3 + 22 * (block_2 % 8) + 22 * kh_3 + kw_3]), fw_splat_v16f32(p1[135 * (block_2 / 8) + 45 * cb_3 + 15 * kh_3 + 5 * kw_3 + 165]), acc_3_3);
              acc_3_4 = fw_fma_v16f32((*(const v16f32u *)&bordered[220 * cb_3 + 22 * (block_2 % 8) + 22 * kh_3 + kw_3]), fw_splat_v16f32(p1[135 * (block_2 / 8) + 45 * cb_3 + 15 * kh_3 + 5 * kw_3 + 166]), acc_3_4);
            }
          }
        }
        *(v16f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 960] = fw_maxc_v16f32((acc_3_0 + fw_splat_v16f32(p3[5 * (block_2 / 8) + 6])), 0.0f);
        *(v16f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1120] = fw_maxc_v16f32((acc_3_1 + fw_splat_v16f32(p3[5 * (block_2 / 8) + 7])), 0.0f);
        *(v16f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1280] = fw_maxc_v16f32((acc_3_2 + fw_splat_v16f32(p3[5 * (block_2 / 8) + 8])), 0.0f);
        *(v16f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1440] = fw_maxc_v16f32((acc_3_3 + fw_splat_v16f32(p3[5 * (block_2 / 8) + 9])), 0.0f);
        *(v16f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1600] = fw_maxc_v16f32((acc_3_4 + fw_splat_v16f32(p3[5 * (block_2 / 8) + 10])), 0.0f);
      }
      for (int64_t v_4v = 0; v_4v < 1; ++v_4v) {
        v4f32 acc_4_0;
        v4f32 acc_4_1;
        v4f32 acc_4_2;
        v4f32 acc_4_3;
        v4f32 acc_4_4;
        acc_4_0 = fw_splat_v4f32(0.0f);
        acc_4_1 = fw_splat_v4f32(0.0f);
        acc_4_2 = fw_splat_v4f32(0.0f);
        acc_4_3 = fw_splat_v4f32(0.0f);
        acc_4_4 = fw_splat_v4f32(0.0f);
        _Pragma("GCC unroll 1") for (int64_t cb_4 = 0; cb_4 < 3; ++cb_4) {
          _Pragma("GCC unroll 1") for (int64_t kh_4 = 0; kh_4 < 3; ++kh_4) {
            _Pragma("GCC unroll 1") for (int64_t kw_4 = 0; kw_4 < 3; ++kw_4) {
              acc_4_0 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_4 + 22 * (block_2 % 8) + 22 * kh_4 + kw_4 + 16]), fw_splat_v4f32(p1[135 * (block_2 / 8) + 45 * cb_4 + 15 * kh_4 + 5 * kw_4 + 162]), acc_4_0);
              acc_4_1 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_4 + 22 * (block_2 % 8) + 22 * kh_4 + kw_4 + 16]), fw_splat_v4f32(p1[135 * (block_2 / 8) + 45 * cb_4 + 15 * kh_4 + 5 * kw_4 + 163]), acc_4_1);
              acc_4_2 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_4 + 22 * (block_2 % 8) + 22 * kh_4 + kw_4 + 16]), fw_splat_v4f32(p1[135 * (block_2 / 8) + 45 * cb_4 + 15 * kh_4 + 5 * kw_4 + 164]), acc_4_2);
              acc_4_3 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_4 + 22 * (block_2 % 8) + 22 * kh_4 + kw_4 + 16]), fw_splat_v4f32(p1[135 * (block_2 / 8) + 45 * cb_4 + 15 * kh_4 + 5 * kw_4 + 165]), acc_4_3);
              acc_4_4 = fw_fma_v4f32((*(const v4f32u *)&bordered[220 * cb_4 + 22 * (block_2 % 8) + 22 * kh_4 + kw_4 + 16]), fw_splat_v4f32(p1[135 * (block_2 / 8) + 45 * cb_4 + 15 * kh_4 + 5 * kw_4 + 166]), acc_4_4);
            }
          }
        }
        *(v4f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 976] = fw_maxc_v4f32((acc_4_0 + fw_splat_v4f32(p3[5 * (block_2 / 8) + 6])), 0.0f);
        *(v4f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1136] = fw_maxc_v4f32((acc_4_1 + fw_splat_v4f32(p3[5 * (block_2 / 8) + 7])), 0.0f);
        *(v4f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1296] = fw_maxc_v4f32((acc_4_2 + fw_splat_v4f32(p3[5 * (block_2 / 8) + 8])), 0.0f);
        *(v4f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1456] = fw_maxc_v4f32((acc_4_3 + fw_splat_v4f32(p3[5 * (block_2 / 8) + 9])), 0.0f);
        *(v4f32u *)&out[800 * (block_2 / 8) + 20 * (block_2 % 8) + 1616] = fw_maxc_v4f32((acc_4_4 + fw_splat_v4f32(p3[5 * (block_2 / 8) + 10])), 0.0f);
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
