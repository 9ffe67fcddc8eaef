static inline float4 fw_splat_v4f32(float a) { return (float4)(a); }
static inline float4 fw_fma_v4f32(float4 a, float4 b, float4 c) { return a * b + c; }
__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void k0(__global const float *restrict p0, __global const float *restrict p1, __global float *restrict out)
{
  const long fw_group = get_group_id(0);
  const long fw_local_item = get_local_id(0);
  __local float left[544] __attribute__((aligned(16)));
  __local float right[1024] __attribute__((aligned(16)));
  const long batch = 0;
  const long rows = fw_group % 4 / 2;
  const long columns = fw_group % 2;
  const long y = fw_local_item / 8;
  const long x = fw_local_item % 8;
  float4 acc_0;
  float4 acc_1;
  acc_0 = fw_splat_v4f32(0.0f);
  acc_1 = fw_splat_v4f32(0.0f);
  #pragma unroll 1
for (long part = 0; part < 2; ++part) {
    for (long round = 0; round < 8; ++round) {
      {
        float t1;
        if ((((16 * rows + 2 * round + ((8 * y + x) / 32)) < (20)) & ((32 * part + ((8 * y + x) % 32)) < (40)))) {
          t1 = p0[640 * rows + 80 * round + 40 * ((8 * y + x) / 32) + 32 * part + ((8 * y + x) % 32)];
        } else {
          t1 = 0.0f;
        }
        left[17 * ((8 * y + x) % 32) + 2 * round + ((8 * y + x) / 32)] = t1;
      }
    }
    for (long round_2 = 0; round_2 < 16; ++round_2) {
      {
        float t2;
        if ((((32 * part + ((8 * y + x) % 32)) < (40)) & ((32 * columns + 2 * round_2 + ((8 * y + x) / 32)) < (36)))) {
          t2 = p1[1280 * columns + 80 * round_2 + 40 * ((8 * y + x) / 32) + 32 * part + ((8 * y + x) % 32)];
        } else {
          t2 = 0.0f;
        }
        right[32 * ((8 * y + x) % 32) + 2 * round_2 + ((8 * y + x) / 32)] = t2;
      }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (long k = 0; k < 32; ++k) {
      float4 w_0;
      w_0 = vload4(0, &right[32 * k + 4 * x]);
      acc_0 = fw_fma_v4f32(fw_splat_v4f32(left[17 * k + 2 * y]), w_0, acc_0);
      acc_1 = fw_fma_v4f32(fw_splat_v4f32(left[17 * k + 2 * y + 1]), w_0, acc_1);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  float tile[8] __attribute__((aligned(64)));
  vstore4(acc_0, 0, &tile[0]);
  vstore4(acc_1, 0, &tile[4]);
  if ((((16 * rows + 2 * y) < (20)) & ((32 * columns + 4 * x) < (36)))) {
    vstore4(vload4(0, &tile[0]), 0, &out[576 * rows + 72 * y + 32 * columns + 4 * x]);
  }
  if ((((16 * rows + 2 * y + 1) < (20)) & ((32 * columns + 4 * x) < (36)))) {
    vstore4(vload4(0, &tile[4]), 0, &out[576 * rows + 72 * y + 32 * columns + 4 * x + 36]);
  }
}
