

void KERNEL(void *const *restrict args, int tid, int nthreads, fw_team *team,
    char *restrict thread_scratch, char *restrict team_scratch)
{
  const float *restrict p0 = args[0];
  const float *restrict p1 = args[1];
  float *restrict out = args[2];
  if (tid == 0) {
    for (int64_t i0 = 0; i0 < 40; ++i0) {
      for (int64_t i1 = 0; i1 < 6; ++i1) {
        out[6 * i0 + i1] = (p0[40 * i1 + i0] + p1[6 * i0 + i1]);
      }
    }
  }
  (void)tid; (void)nthreads; (void)team; (void)thread_scratch; (void)team_scratch;
}
