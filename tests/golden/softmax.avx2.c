typedef float v8f32 __attribute__((vector_size(32)));
typedef float v8f32u __attribute__((vector_size(32), aligned(4), may_alias));
static inline v8f32 fw_splat_v8f32(float a) { return (v8f32){a, a, a, a, a, a, a, a}; }
typedef int32_t v8i32 __attribute__((vector_size(32)));
typedef int32_t v8i32u __attribute__((vector_size(32), aligned(4), may_alias));
static inline v8f32 fw_max_else_v8f32(v8f32 a, v8f32 b) {
#if defined(__AVX__)
  v8f32 r;
  __asm__("vmaxps\t%2, %1, %0" : "=v"(r) : "v"(a), "v"(b));
  return r;
#else
  v8i32 m = a > b;
  return (v8f32)((m & (v8i32)a) | (~m & (v8i32)b));
#endif
}
static inline v8f32 fw_rotate4_v8f32(v8f32 a, v8f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 4, 5, 6, 7, 0, 1, 2, 3);
#else
  return __builtin_shuffle(a, b, (v8i32){4, 5, 6, 7, 0, 1, 2, 3});
#endif
}
static inline v8f32 fw_rotate2_v8f32(v8f32 a, v8f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 2, 3, 4, 5, 6, 7, 0, 1);
#else
  return __builtin_shuffle(a, b, (v8i32){2, 3, 4, 5, 6, 7, 0, 1});
#endif
}
static inline v8f32 fw_rotate1_v8f32(v8f32 a, v8f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 0);
#else
  return __builtin_shuffle(a, b, (v8i32){1, 2, 3, 4, 5, 6, 7, 0});
#endif
}
static inline float fw_max_else_f32(float a, float b) { return a > b ? a : b; }
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
static inline v8f32 fw_minc_v8f32(v8f32 a, float b) {
#if defined(__AVX__)
  v8f32 r, c = (v8f32){0} + b;
  __asm__("vminps\t%2, %1, %0" : "=v"(r) : "v"(c), "v"(a));
  return r;
#else
  v8i32 m = a > b;
  return (v8f32)((m & (v8i32)((v8f32){0} + b)) | (~m & (v8i32)a));
#endif
}
static inline v8i32 fw_bits_v8f32(v8f32 a) { return (v8i32)a; }
static inline v8f32 fw_from_bits_v8f32(v8i32 a) { return (v8f32)a; }
static inline v8f32 fw_exp_v8f32(v8f32 a) {
  v8f32 x = fw_maxc_v8f32(fw_minc_v8f32(a, 89.0f), -104.0f);
  v8f32 z = x * 1.44269504088896341f + 12582912.0f;
  v8f32 k = z - 12582912.0f;
  v8f32 r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  v8f32 p = r * 1.381453826e-3f + 8.368745446e-3f;
  p = p * r + 4.166838899e-2f;
  p = p * r + 1.666652113e-1f;
  p = p * r + 4.999999404e-1f;
  p = p * (r * r) + (r + 1.0f);
#if 32 == 64 && defined(__AVX512F__) || (32 == 32 || 32 == 16) && defined(__AVX512VL__)
  v8f32 s;
  __asm__("vscalefps\t%2, %1, %0" : "=v"(s) : "v"(p), "v"(k));
  return s;
#else
  v8i32 n = fw_bits_v8f32(z) - 0x4b400000;
  v8i32 h = n >> 1;
  return p * fw_from_bits_v8f32((h + 127) << 23) * fw_from_bits_v8f32((n - h + 127) << 23);
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
      float parts[8] __attribute__((aligned(64)));
      for (int64_t lanev = 0; lanev < 1; ++lanev) {
        v8f32 acc_0;
        v8f32 acc_1;
        acc_0 = fw_splat_v8f32(-__builtin_inff());
        acc_1 = fw_splat_v8f32(-__builtin_inff());
        for (int64_t kv = 0; kv < 3; ++kv) {
          acc_0 = fw_max_else_v8f32(acc_0, (*(const v8f32u *)&p0[50 * row + 16 * kv]));
          acc_1 = fw_max_else_v8f32(acc_1, (*(const v8f32u *)&p0[50 * row + 16 * kv + 8]));
        }
        acc_0 = fw_max_else_v8f32(acc_0, acc_1);
        *(v8f32u *)&parts[0] = acc_0;
      }
      {
        const v8f32 t1 = (*(const v8f32u *)&parts[0]);
        const v8f32 t2 = fw_max_else_v8f32(t1, fw_rotate4_v8f32(t1, t1));
        const v8f32 t3 = fw_max_else_v8f32(t2, fw_rotate2_v8f32(t2, t2));
        *(v8f32u *)&parts[0] = fw_max_else_v8f32(t3, fw_rotate1_v8f32(t3, t3));
      }
      totals_0 = parts[0];
      for (int64_t kt = 0; kt < 2; ++kt) {
        totals_0 = fw_max_else_f32(totals_0, p0[50 * row + kt + 48]);
      }
      float kept1[50] __attribute__((aligned(64)));
      float totals_2_0;
      float parts_2[8] __attribute__((aligned(64)));
      for (int64_t lane_2v = 0; lane_2v < 1; ++lane_2v) {
        v8f32 acc_2_0;
        v8f32 acc_2_1;
        acc_2_0 = fw_splat_v8f32(0.0f);
        acc_2_1 = fw_splat_v8f32(0.0f);
        for (int64_t kv_2 = 0; kv_2 < 3; ++kv_2) {
          __builtin_prefetch(&out[50 * row + 16 * kv_2], 1, 3);
          v8f32 term_0;
          term_0 = fw_exp_v8f32(((*(const v8f32u *)&p0[50 * row + 16 * kv_2]) - fw_splat_v8f32(totals_0)));
          *(v8f32u *)&kept1[16 * kv_2] = term_0;
          acc_2_0 = (acc_2_0 + term_0);
          __builtin_prefetch(&out[50 * row + 16 * kv_2 + 8], 1, 3);
          v8f32 term_2_0;
          term_2_0 = fw_exp_v8f32(((*(const v8f32u *)&p0[50 * row + 16 * kv_2 + 8]) - fw_splat_v8f32(totals_0)));
          *(v8f32u *)&kept1[16 * kv_2 + 8] = term_2_0;
          acc_2_1 = (acc_2_1 + term_2_0);
        }
        acc_2_0 = (acc_2_0 + acc_2_1);
        *(v8f32u *)&parts_2[0] = acc_2_0;
      }
      {
        const v8f32 t4 = (*(const v8f32u *)&parts_2[0]);
        const v8f32 t5 = (t4 + fw_rotate4_v8f32(t4, t4));
        const v8f32 t6 = (t5 + fw_rotate2_v8f32(t5, t5));
        *(v8f32u *)&parts_2[0] = (t6 + fw_rotate1_v8f32(t6, t6));
      }
      totals_2_0 = parts_2[0];
      for (int64_t kt_2 = 0; kt_2 < 2; ++kt_2) {
        float term_3_0;
        term_3_0 = fw_exp_f32((p0[50 * row + kt_2 + 48] - totals_0));
        kept1[kt_2 + 48] = term_3_0;
        totals_2_0 = (totals_2_0 + term_3_0);
      }
      float own_0;
      own_0 = fw_div_f32(1.0f, totals_2_0);
      for (int64_t s0v = 0; s0v < 6; ++s0v) {
        *(v8f32u *)&out[50 * row + 8 * s0v] = ((*(const v8f32u *)&kept1[8 * s0v]) * fw_splat_v8f32(own_0));
      }
      for (int64_t s0t48 = 0; s0t48 < 2; ++s0t48) {
        out[50 * row + s0t48 + 48] = (kept1[s0t48 + 48] * own_0);
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
