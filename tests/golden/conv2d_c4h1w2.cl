static inline float4 fw_splat_v4f32(float a) { return (float4)(a); }
static inline float4 fw_fma_v4f32(float4 a, float4 b, float4 c) { return a * b + c; }
__kernel __attribute__((reqd_work_group_size(FW_LOCAL, 1, 1)))
void k0(__global const float *restrict p1, __global float *restrict packed)
{
  const long fw_item = get_global_id(0);
  if (fw_item >= 0 && fw_item < 3) {
    const long pack = fw_item - 0;
    for (long ptile = 0; ptile < 2; ++ptile) {
      for (long prow = 0; prow < 12; ++prow) {
        for (long plane = 0; plane < 4; ++plane) {
          packed[144 * ptile + 48 * pack + 4 * prow + plane] = p1[144 * ptile + 36 * plane + 12 * pack + prow];
        }
      }
    }
  }
}

__kernel __attribute__((reqd_work_group_size(32, 1, 1)))
void k1(__global const float *restrict p0, __global float *restrict out, __global float *restrict packed)
{
  const long fw_group = get_group_id(0);
  const long fw_local_item = get_local_id(0);
  const long group = fw_group;
  const long item = fw_local_item;
  if (((32 * group + item) < (48))) {
    float tile[8] __attribute__((aligned(64)));
    for (long vv = 0; vv < 1; ++vv) {
      float4 acc_0;
      float4 acc_1;
      acc_0 = fw_splat_v4f32(0.0f);
      acc_1 = fw_splat_v4f32(0.0f);
      #pragma unroll 1
for (long cb = 0; cb < 4; ++cb) {
        #pragma unroll 1
for (long kh = 0; kh < 3; ++kh) {
          #pragma unroll 1
for (long kw = 0; kw < 3; ++kw) {
            {
              float t1;
              if ((((((((8 * group + (item / 4)) % 6) + kh - 1) >= (0)) & ((((8 * group + (item / 4)) % 6) + kh - 1) < (6))) & ((2 * (item % 4) + kw - 1) >= (0))) & ((2 * (item % 4) + kw - 1) < (7)))) {
                t1 = p0[42 * cb + 7 * ((8 * group + (item / 4)) % 6) + 7 * kh + 2 * (item % 4) + kw - 8];
              } else {
                t1 = 0.0f;
              }
              acc_0 = fw_fma_v4f32(vload4(0, &packed[144 * ((32 * group + item) / 24) + 36 * cb + 12 * kh + 4 * kw]), fw_splat_v4f32(t1), acc_0);
            }
            {
              float t2;
              if (((((((8 * group + (item / 4)) % 6) + kh - 1) >= (0)) & ((((8 * group + (item / 4)) % 6) + kh - 1) < (6))) & ((2 * (item % 4) + kw) < (7)))) {
                t2 = p0[42 * cb + 7 * ((8 * group + (item / 4)) % 6) + 7 * kh + 2 * (item % 4) + kw - 7];
              } else {
                t2 = 0.0f;
              }
              acc_1 = fw_fma_v4f32(vload4(0, &packed[144 * ((32 * group + item) / 24) + 36 * cb + 12 * kh + 4 * kw]), fw_splat_v4f32(t2), acc_1);
            }
          }
        }
      }
      vstore4(acc_0, 0, &tile[0]);
      vstore4(acc_1, 0, &tile[4]);
    }
    out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4)] = tile[0];
    if (((2 * (item % 4) + 1) < (7))) {
      out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 1] = tile[4];
    }
    out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 42] = tile[1];
    if (((2 * (item % 4) + 1) < (7))) {
      out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 43] = tile[5];
    }
    out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 84] = tile[2];
    if (((2 * (item % 4) + 1) < (7))) {
      out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 85] = tile[6];
    }
    out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 126] = tile[3];
    if (((2 * (item % 4) + 1) < (7))) {
      out[168 * ((32 * group + item) / 24) + 7 * ((8 * group + (item / 4)) % 6) + 2 * (item % 4) + 127] = tile[7];
    }
  }
}
