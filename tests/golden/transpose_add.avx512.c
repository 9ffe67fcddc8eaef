typedef float v4f32 __attribute__((vector_size(16)));
typedef float v4f32u __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t v4i32 __attribute__((vector_size(16)));
typedef int32_t v4i32u __attribute__((vector_size(16), aligned(4), may_alias));
static inline v4f32 fw_swap2_lo_v4f32(v4f32 a, v4f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 0, 1, 4, 5);
#else
  return __builtin_shuffle(a, b, (v4i32){0, 1, 4, 5});
#endif
}
static inline v4f32 fw_swap2_hi_v4f32(v4f32 a, v4f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 2, 3, 6, 7);
#else
  return __builtin_shuffle(a, b, (v4i32){2, 3, 6, 7});
#endif
}
static inline v4f32 fw_swap1_lo_v4f32(v4f32 a, v4f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 0, 4, 2, 6);
#else
  return __builtin_shuffle(a, b, (v4i32){0, 4, 2, 6});
#endif
}
static inline v4f32 fw_swap1_hi_v4f32(v4f32 a, v4f32 b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, 1, 5, 3, 7);
#else
  return __builtin_shuffle(a, b, (v4i32){1, 5, 3, 7});
#endif
}

void KERNEL(void *const *restrict args, int tid, int nthreads, fw_team *team,
    char *restrict thread_scratch, char *restrict team_scratch)
{
  const float *restrict p0 = args[0];
  const float *restrict p1 = args[1];
  float *restrict out = args[2];
  if (tid == 0) {
    for (int64_t ta = 0; ta < 8; ++ta) {
      v4f32 row_0;
      v4f32 row_1;
      v4f32 row_2;
      v4f32 row_3;
      row_0 = (*(const v4f32u *)&p0[4 * ta]);
      row_1 = (*(const v4f32u *)&p0[4 * ta + 40]);
      row_2 = (*(const v4f32u *)&p0[4 * ta + 80]);
      row_3 = (*(const v4f32u *)&p0[4 * ta + 120]);
      v4f32 part_0;
      v4f32 part_1;
      v4f32 part_2;
      v4f32 part_3;
      part_0 = fw_swap2_lo_v4f32(row_0, row_2);
      part_1 = fw_swap2_lo_v4f32(row_1, row_3);
      part_2 = fw_swap2_hi_v4f32(row_0, row_2);
      part_3 = fw_swap2_hi_v4f32(row_1, row_3);
      v4f32 part_2_0;
      v4f32 part_2_1;
      v4f32 part_2_2;
      v4f32 part_2_3;
      part_2_0 = fw_swap1_lo_v4f32(part_0, part_1);
      part_2_1 = fw_swap1_hi_v4f32(part_0, part_1);
      part_2_2 = fw_swap1_lo_v4f32(part_2, part_3);
      part_2_3 = fw_swap1_hi_v4f32(part_2, part_3);
      float tile[16] __attribute__((aligned(64)));
      *(v4f32u *)&tile[0] = part_2_0;
      *(v4f32u *)&tile[4] = part_2_1;
      *(v4f32u *)&tile[8] = part_2_2;
      *(v4f32u *)&tile[12] = part_2_3;
      for (int64_t ra = 0; ra < 4; ++ra) {
        *(v4f32u *)&out[24 * ta + 6 * ra] = ((*(const v4f32u *)&tile[4 * ra]) + (*(const v4f32u *)&p1[24 * ta + 6 * ra]));
      }
    }
    for (int64_t ta_2 = 0; ta_2 < 32; ++ta_2) {
      for (int64_t tc = 0; tc < 2; ++tc) {
        out[6 * ta_2 + tc + 4] = (p0[40 * tc + ta_2 + 160] + p1[6 * ta_2 + tc + 4]);
      }
    }
    for (int64_t ta_3 = 0; ta_3 < 2; ++ta_3) {
      v4f32 row_2_0;
      v4f32 row_2_1;
      v4f32 row_2_2;
      v4f32 row_2_3;
      row_2_0 = (*(const v4f32u *)&p0[4 * ta_3 + 32]);
      row_2_1 = (*(const v4f32u *)&p0[4 * ta_3 + 72]);
      row_2_2 = (*(const v4f32u *)&p0[4 * ta_3 + 112]);
      row_2_3 = (*(const v4f32u *)&p0[4 * ta_3 + 152]);
      v4f32 part_3_0;
      v4f32 part_3_1;
      v4f32 part_3_2;
      v4f32 part_3_3;
      part_3_0 = fw_swap2_lo_v4f32(row_2_0, row_2_2);
      part_3_1 = fw_swap2_lo_v4f32(row_2_1, row_2_3);
      part_3_2 = fw_swap2_hi_v4f32(row_2_0, row_2_2);
      part_3_3 = fw_swap2_hi_v4f32(row_2_1, row_2_3);
      v4f32 part_4_0;
      v4f32 part_4_1;
      v4f32 part_4_2;
      v4f32 part_4_3;
      part_4_0 = fw_swap1_lo_v4f32(part_3_0, part_3_1);
      part_4_1 = fw_swap1_hi_v4f32(part_3_0, part_3_1);
      part_4_2 = fw_swap1_lo_v4f32(part_3_2, part_3_3);
      part_4_3 = fw_swap1_hi_v4f32(part_3_2, part_3_3);
      float tile_2[16] __attribute__((aligned(64)));
      *(v4f32u *)&tile_2[0] = part_4_0;
      *(v4f32u *)&tile_2[4] = part_4_1;
      *(v4f32u *)&tile_2[8] = part_4_2;
      *(v4f32u *)&tile_2[12] = part_4_3;
      for (int64_t ra_2 = 0; ra_2 < 4; ++ra_2) {
        *(v4f32u *)&out[24 * ta_3 + 6 * ra_2 + 192] = ((*(const v4f32u *)&tile_2[4 * ra_2]) + (*(const v4f32u *)&p1[24 * ta_3 + 6 * ra_2 + 192]));
      }
    }
    for (int64_t ta_4 = 0; ta_4 < 8; ++ta_4) {
      for (int64_t tc_2 = 0; tc_2 < 2; ++tc_2) {
        out[6 * ta_4 + tc_2 + 196] = (p0[40 * tc_2 + ta_4 + 192] + p1[6 * ta_4 + tc_2 + 196]);
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
