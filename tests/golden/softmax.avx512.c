typedef float v16f32 __attribute__((vector_size(64)));
typedef float v16f32u __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16f32 fw_splat_v16f32(float a) { return (v16f32){a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a}; }
typedef int32_t v16i32 __attribute__((vector_size(64)));
typedef int32_t v16i32u __attribute__((vector_size(64), aligned(4), may_alias));
static inline v16f32 fw_max_v16f32(v16f32 a, v16f32 b) {
  v16i32 m = (a <= b) | (b != b);
  return (v16f32)((m & (v16i32)((v16f32){0} + b)) | (~m & (v16i32)a));
}
static inline float fw_max_f32(float a, float b) { return (a > b || a != a) ? a : b; }
static inline v16f32 fw_maxc_v16f32(v16f32 a, float b) {
  v16i32 m = a < b;
  return (v16f32)((m & (v16i32)((v16f32){0} + b)) | (~m & (v16i32)a));
}
static inline v16f32 fw_minc_v16f32(v16f32 a, float b) {
  v16i32 m = a > b;
  return (v16f32)((m & (v16i32)((v16f32){0} + b)) | (~m & (v16i32)a));
}
static inline v16i32 fw_bits_v16f32(v16f32 a) { return (v16i32)a; }
static inline v16f32 fw_from_bits_v16f32(v16i32 a) { return (v16f32)a; }
static inline v16f32 fw_exp_v16f32(v16f32 a) {
  v16f32 x = fw_maxc_v16f32(fw_minc_v16f32(a, 89.0f), -104.0f);
  v16f32 z = x * 1.44269504088896341f + 12582912.0f;
  v16i32 n = fw_bits_v16f32(z) - 0x4b400000;
  v16f32 k = z - 12582912.0f;
  v16f32 r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  v16f32 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  v16i32 h = n >> 1;
  return p * fw_from_bits_v16f32((h + 127) << 23) * fw_from_bits_v16f32((n - h + 127) << 23);
}
static inline float fw_maxc_f32(float a, float b) { return b > a ? b : a; }
static inline float fw_minc_f32(float a, float b) { return b < a ? b : a; }
static inline int32_t fw_bits_f32(float a) { int32_t r; memcpy(&r, &a, 4); return r; }
static inline float fw_from_bits_f32(int32_t a) { float r; memcpy(&r, &a, 4); return r; }
static inline float fw_exp_f32(float a) {
  float x = fw_maxc_f32(fw_minc_f32(a, 89.0f), -104.0f);
  float z = x * 1.44269504088896341f + 12582912.0f;
  int32_t n = fw_bits_f32(z) - 0x4b400000;
  float k = z - 12582912.0f;
  float r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  int32_t h = n >> 1;
  return p * fw_from_bits_f32((h + 127) << 23) * fw_from_bits_f32((n - h + 127) << 23);
}
static inline v16f32 fw_div_v16f32(v16f32 a, v16f32 b) { return a / b; }
static inline float fw_div_f32(float a, float b) { return a / b; }

void KERNEL(void *const *restrict args, int tid, int nthreads, fw_team *team,
    char *restrict thread_scratch, char *restrict team_scratch)
{
  const float *restrict p0 = args[0];
  float *restrict out = args[1];
  if (tid == 0) {
    for (int64_t row = 0; row < 4; ++row) {
      float parts0[16] __attribute__((aligned(64)));
      for (int64_t lane0v = 0; lane0v < 1; ++lane0v) {
        v16f32 part0_0;
        part0_0 = fw_splat_v16f32(-__builtin_inff());
        for (int64_t k0_0 = 0; k0_0 < 3; ++k0_0) {
          part0_0 = fw_max_v16f32(part0_0, (*(const v16f32u *)&p0[50 * row + 16 * k0_0]));
        }
        *(v16f32u *)&parts0[0] = part0_0;
      }
      float acc0_0;
      acc0_0 = -__builtin_inff();
      for (int64_t join0 = 0; join0 < 16; ++join0) {
        acc0_0 = fw_max_f32(acc0_0, parts0[join0]);
      }
      for (int64_t k0_0_2 = 0; k0_0_2 < 2; ++k0_0_2) {
        acc0_0 = fw_max_f32(acc0_0, p0[50 * row + k0_0_2 + 48]);
      }
      float parts1[16] __attribute__((aligned(64)));
      for (int64_t lane1v = 0; lane1v < 1; ++lane1v) {
        v16f32 part1_0;
        part1_0 = fw_splat_v16f32(0.0f);
        for (int64_t k1_0 = 0; k1_0 < 3; ++k1_0) {
          part1_0 = (part1_0 + fw_exp_v16f32(((*(const v16f32u *)&p0[50 * row + 16 * k1_0]) - fw_splat_v16f32(acc0_0))));
        }
        *(v16f32u *)&parts1[0] = part1_0;
      }
      float acc1_0;
      acc1_0 = 0.0f;
      for (int64_t join1 = 0; join1 < 16; ++join1) {
        acc1_0 = (acc1_0 + parts1[join1]);
      }
      for (int64_t k1_0_2 = 0; k1_0_2 < 2; ++k1_0_2) {
        acc1_0 = (acc1_0 + fw_exp_f32((p0[50 * row + k1_0_2 + 48] - acc0_0)));
      }
      for (int64_t s1v = 0; s1v < 3; ++s1v) {
        *(v16f32u *)&out[50 * row + 16 * s1v] = fw_div_v16f32(fw_exp_v16f32(((*(const v16f32u *)&p0[50 * row + 16 * s1v]) - fw_splat_v16f32(acc0_0))), fw_splat_v16f32(acc1_0));
      }
      for (int64_t s1t48 = 0; s1t48 < 2; ++s1t48) {
        out[50 * row + s1t48 + 48] = fw_div_f32(fw_exp_f32((p0[50 * row + s1t48 + 48] - acc0_0)), acc1_0);
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
