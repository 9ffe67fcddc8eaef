typedef float v16f32 __attribute__((vector_size(64)));
typedef float v16f32u __attribute__((vector_size(64), aligned(4), may_alias));
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
static inline v16f32 fw_splat_v16f32(float a) { return (v16f32){a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a}; }
static inline v16f32 fw_max_v16f32(v16f32 a, v16f32 b) {
#if defined(__AVX512F__) && 64 == 64
  v16f32 r; unsigned short k;
  __asm__("vmaxps\t%2, %3, %0\n\tvcmpunordps\t%3, %3, %1\n\tvmovaps\t%3, %0%{%1%}"
    : "=&v"(r), "=&Yk"(k) : "v"(a), "v"(b));
  return r;
#elif defined(__AVX__) && (64 == 32 || 64 == 16)
  v16f32 r, k;
  __asm__("vmaxps\t%2, %3, %0\n\tvcmpunordps\t%3, %3, %1\n\tvblendvps\t%1, %3, %0, %0"
    : "=&x"(r), "=&x"(k) : "x"(a), "x"(b));
  return r;
#else
  v16i32 m = (a <= b) | (b != b);
  return (v16f32)((m & (v16i32)b) | (~m & (v16i32)a));
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
static inline float fw_max_f32(float a, float b) { return (a > b || a != a) ? a : b; }

void KERNEL(void *const *restrict args, int tid, int nthreads, fw_team *team,
    char *restrict thread_scratch, char *restrict team_scratch)
{
  const float *restrict p0 = args[0];
  const float *restrict p1 = args[1];
  const float *restrict p2 = args[2];
  float *restrict out = args[3];
  if (tid == 0) {
    for (int64_t i0 = 0; i0 < 6; ++i0) {
      for (int64_t i1v = 0; i1v < 2; ++i1v) {
        {
          const v16f32 t1 = fw_exp_v16f32(((*(const v16f32u *)&p0[35 * i0 + 16 * i1v]) * (*(const v16f32u *)&p1[16 * i1v])));
          *(v16f32u *)&out[35 * i0 + 16 * i1v] = fw_max_v16f32((t1 + fw_splat_v16f32(p2[i0])), (t1 * t1));
        }
      }
      for (int64_t i1t32 = 0; i1t32 < 3; ++i1t32) {
        {
          const float t2 = fw_exp_f32((p0[35 * i0 + i1t32 + 32] * p1[i1t32 + 32]));
          out[35 * i0 + i1t32 + 32] = fw_max_f32((t2 + p2[i0]), (t2 * t2));
        }
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
