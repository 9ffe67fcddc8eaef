/* What a generated kernel knows of the thread team that runs it. Generated sources include this text as it is, so that
   a kernel links against nothing: it reaches the barrier through the structure it is handed. */
#ifndef FW_TEAM_H
#define FW_TEAM_H

typedef struct fw_team {
  int nthreads;
  void (*barrier)(struct fw_team *team, int tid);
} fw_team;

/* A parallel region: called once on each thread of the team, tid 0 (the caller's thread) to nthreads - 1. */
typedef void (*fw_region)(void *arg, int tid, int nthreads, fw_team *team);

/* Wait until all threads of the team are here. What they wrote before is visible to all afterwards. Each thread of a
   region has to pass the same barriers in the same order. */
static inline void fw_barrier(fw_team *team, int tid) {
  if (team->nthreads > 1) team->barrier(team, tid);
}

#endif
