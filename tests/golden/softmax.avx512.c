typedef float v16f32 __attribute__((vector_size(64)));
typedef float v16f32u __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16f32 fw_splat_v16f32(float a) { return (v16f32){a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a}; }
typedef int32_t v16i32 __attribute__((vector_size(64)));
typedef int32_t v16i32u __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16f32 fw_max_else_v16f32(v16f32 a, v16f32 b) {
#if defined(__AVX512F__)
  v16f32 r;
  __asm__("vmaxps\t%2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  return r;
#else
  v16i32 m = a > b;
  return (v16f32)((m & (v16i32)a) | (~m & (v16i32)b));
#endif
}
static inline v16f32 fw_rotate8_v16f32(v16f32 a, v16f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
#else
  return __builtin_shuffle(a, b, (v16i32){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
#endif
}
static inline v16f32 fw_rotate4_v16f32(v16f32 a, v16f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3);
#else
  return __builtin_shuffle(a, b, (v16i32){4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3});
#endif
}
static inline v16f32 fw_rotate2_v16f32(v16f32 a, v16f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1);
#else
  return __builtin_shuffle(a, b, (v16i32){2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1});
#endif
}
static inline v16f32 fw_rotate1_v16f32(v16f32 a, v16f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0);
#else
  return __builtin_shuffle(a, b, (v16i32){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0});
#endif
}
static inline float fw_max_else_f32(float a, float b) { return a > b ? a : b; }
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
static inline v16f32 fw_minc_v16f32(v16f32 a, float b) {
#if defined(__AVX512F__)
  v16f32 r, c = (v16f32){0} + b;
  __asm__("vminps\t%2, %1, %0" : "=v"(r) : "v"(c), "v"(a));
  return r;
#else
  v16i32 m = a > b;
  return (v16f32)((m & (v16i32)((v16f32){0} + b)) | (~m & (v16i32)a));
#endif
}
static inline v16i32 fw_bits_v16f32(v16f32 a) { return (v16i32)a; }
static inline v16f32 fw_from_bits_v16f32(v16i32 a) { return (v16f32)a; }
static inline v16f32 fw_exp_v16f32(v16f32 a) {
  v16f32 x = fw_maxc_v16f32(fw_minc_v16f32(a, 89.0f), -104.0f);
  v16f32 z = x * 1.44269504088896341f + 12582912.0f;
  v16f32 k = z - 12582912.0f;
  v16f32 r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  v16f32 p = r * 1.381453826e-3f + 8.368745446e-3f;
  p = p * r + 4.166838899e-2f;
  p = p * r + 1.666652113e-1f;
  p = p * r + 4.999999404e-1f;
  p = p * (r * r) + (r + 1.0f);
#if 64 == 64 && defined(__AVX512F__) || (64 == 32 || 64 == 16) && defined(__AVX512VL__)
  v16f32 s;
  __asm__("vscalefps\t%2, %1, %0" : "=v"(s) : "v"(p), "v"(k));
  return s;
#else
  v16i32 n = fw_bits_v16f32(z) - 0x4b400000;
  v16i32 h = n >> 1;
  return p * fw_from_bits_v16f32((h + 127) << 23) * fw_from_bits_v16f32((n - h + 127) << 23);
#endif
}
static inline float fw_maxc_f32(float a, float b) { return b > a ? b : a; }
static inline float fw_minc_f32(float a, float b) { return b < a ? b : a; }
static inline int32_t fw_bits_f32(float a) { int32_t r; memcpy(&r, &a, 4); return r; }
static inline float fw_from_bits_f32(int32_t a) { float r; memcpy(&r, &a, 4); return r; }
static inline float fw_exp_f32(float a) {
  float x = fw_maxc_f32(fw_minc_f32(a, 89.0f), -104.0f);
  float z = x * 1.44269504088896341f + 12582912.0f;
  float k = z - 12582912.0f;
  float r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  float p = r * 1.381453826e-3f + 8.368745446e-3f;
  p = p * r + 4.166838899e-2f;
  p = p * r + 1.666652113e-1f;
  p = p * r + 4.999999404e-1f;
  p = p * (r * r) + (r + 1.0f);
#if 4 == 64 && defined(__AVX512F__) || (4 == 32 || 4 == 16) && defined(__AVX512VL__)
  float s;
  __asm__("vscalefps\t%2, %1, %0" : "=v"(s) : "v"(p), "v"(k));
  return s;
#else
  int32_t n = fw_bits_f32(z) - 0x4b400000;
  int32_t h = n >> 1;
  return p * fw_from_bits_f32((h + 127) << 23) * fw_from_bits_f32((n - h + 127) << 23);
#endif
}
static inline float fw_div_f32(float a, float b) { return a / b; }

void KERNEL(void *const *restrict args, int tid, int nthreads, fw_team *team,
    char *restrict thread_scratch, char *restrict team_scratch)
{
  const float *restrict p0 = args[0];
  float *restrict out = args[1];
  if (tid == 0) {
    for (int64_t row = 0; row < 4; ++row) {
      float totals_0;
      float parts[16] __attribute__((aligned(64)));
      for (int64_t lanev = 0; lanev < 1; ++lanev) {
        v16f32 acc_0;
        acc_0 = fw_splat_v16f32(-__builtin_inff());
        for (int64_t kv = 0; kv < 3; ++kv) {
          acc_0 = fw_max_else_v16f32(acc_0, (*(const v16f32u *)&p0[50 * row + 16 * kv]));
        }
        *(v16f32u *)&parts[0] = acc_0;
      }
      {
        const v16f32 t1 = (*(const v16f32u *)&parts[0]);
        const v16f32 t2 = fw_max_else_v16f32(t1, fw_rotate8_v16f32(t1, t1));
        const v16f32 t3 = fw_max_else_v16f32(t2, fw_rotate4_v16f32(t2, t2));
        const v16f32 t4 = fw_max_else_v16f32(t3, fw_rotate2_v16f32(t3, t3));
        *(v16f32u *)&parts[0] = fw_max_else_v16f32(t4, fw_rotate1_v16f32(t4, t4));
      }
      totals_0 = parts[0];
      for (int64_t kt = 0; kt < 2; ++kt) {
        totals_0 = fw_max_else_f32(totals_0, p0[50 * row + kt + 48]);
      }
      float kept1[50] __attribute__((aligned(64)));
      float totals_2_0;
      float parts_2[16] __attribute__((aligned(64)));
      for (int64_t lane_2v = 0; lane_2v < 1; ++lane_2v) {
        v16f32 acc_2_0;
        acc_2_0 = fw_splat_v16f32(0.0f);
        for (int64_t kv_2 = 0; kv_2 < 3; ++kv_2) {
          __builtin_prefetch(&out[50 * row + 16 * kv_2], 1, 3);
          v16f32 term_0;
          term_0 = fw_exp_v16f32(((*(const v16f32u *)&p0[50 * row + 16 * kv_2]) - fw_splat_v16f32(totals_0)));
          *(v16f32u *)&kept1[16 * kv_2] = term_0;
          acc_2_0 = (acc_2_0 + term_0);
        }
        *(v16f32u *)&parts_2[0] = acc_2_0;
      }
      {
        const v16f32 t5 = (*(const v16f32u *)&parts_2[0]);
        const v16f32 t6 = (t5 + fw_rotate8_v16f32(t5, t5));
        const v16f32 t7 = (t6 + fw_rotate4_v16f32(t6, t6));
        const v16f32 t8 = (t7 + fw_rotate2_v16f32(t7, t7));
        *(v16f32u *)&parts_2[0] = (t8 + fw_rotate1_v16f32(t8, t8));
      }
      totals_2_0 = parts_2[0];
      for (int64_t kt_2 = 0; kt_2 < 2; ++kt_2) {
        float term_2_0;
        term_2_0 = fw_exp_f32((p0[50 * row + kt_2 + 48] - totals_0));
        kept1[kt_2 + 48] = term_2_0;
        totals_2_0 = (totals_2_0 + term_2_0);
      }
      float own_0;
      own_0 = fw_div_f32(1.0f, totals_2_0);
      for (int64_t s0v = 0; s0v < 3; ++s0v) {
        *(v16f32u *)&out[50 * row + 16 * s0v] = ((*(const v16f32u *)&kept1[16 * s0v]) * fw_splat_v16f32(own_0));
      }
      for (int64_t s0t48 = 0; s0t48 < 2; ++s0t48) {
        out[50 * row + s0t48 + 48] = (kept1[s0t48 + 48] * own_0);
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
