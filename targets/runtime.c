/* The thread team: n - 1 worker threads and the caller run one function together.

   Waiting goes through three stages: spin for a while (a wake-up through the kernel costs more than most waits last),
   yield the processor a few times (when there are more threads than processors, the one waited for may want it), then
   sleep. An idle team therefore takes no processor time.

   The barrier is central, with a generation number in place of the sense flag (Mellor-Crummey and Scott, "Algorithms
   for scalable synchronization on shared-memory multiprocessors", ACM TOCS 9(1), 1991): whoever arrives last resets
   the count and starts the next generation. A region ends in the same barrier.

   fw_team.h is prepended to this file. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#if defined(__linux__) && !defined(FW_NO_FUTEX)
#define FW_FUTEX 1
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define CACHE_LINE 128 /* two lines of 64 bytes: adjacent ones are fetched in pairs */
#define POLLS_PER_CLOCK 32
#define YIELDS 16
#define STACK_BYTES ((size_t)8 << 20)

/* A number that threads wait to see changed. */
typedef struct {
  _Alignas(CACHE_LINE) atomic_uint value;
  atomic_int sleepers;
#ifndef FW_FUTEX
  pthread_mutex_t mutex;
  pthread_cond_t changed;
#endif
} fw_event;

typedef struct {
  fw_team face; /* first, so that a fw_team * is a team * */
  int64_t spin_ns;
  fw_region fn;
  void *arg;
  int stop;
  fw_event region;     /* counts regions; workers wait for the next */
  fw_event generation; /* counts barriers passed */
  _Alignas(CACHE_LINE) atomic_int arrived;
  pthread_t workers[];
} team;

typedef struct {
  team *team;
  int tid;
} worker_args;

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void event_init(fw_event *event) {
  atomic_init(&event->value, 0);
  atomic_init(&event->sleepers, 0);
#ifndef FW_FUTEX
  pthread_mutex_init(&event->mutex, NULL);
  pthread_cond_init(&event->changed, NULL);
#endif
}

static void event_destroy(fw_event *event) {
#ifndef FW_FUTEX
  pthread_cond_destroy(&event->changed);
  pthread_mutex_destroy(&event->mutex);
#else
  (void)event;
#endif
}

static int is_still(fw_event *event, unsigned old) {
  return atomic_load_explicit(&event->value, memory_order_acquire) == old;
}

static void event_sleep(fw_event *event, unsigned old) {
  /* No wake-up is lost: the waker changes the value before it reads `sleepers`, we announce ourselves before the value
     is looked at again (by the kernel, or under the mutex), and all four are sequentially consistent. */
  atomic_fetch_add(&event->sleepers, 1);
#ifdef FW_FUTEX
  while (atomic_load(&event->value) == old)
    syscall(SYS_futex, &event->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
#else
  pthread_mutex_lock(&event->mutex);
  while (atomic_load(&event->value) == old) pthread_cond_wait(&event->changed, &event->mutex);
  pthread_mutex_unlock(&event->mutex);
#endif
  atomic_fetch_sub(&event->sleepers, 1);
}

static void event_wait(fw_event *event, unsigned old, int64_t spin_ns) {
  int64_t end = 0; /* the clock is read only once the first polls have failed: most waits are that short */
  while (spin_ns > 0) {
    for (int i = 0; i < POLLS_PER_CLOCK; ++i) {
      if (!is_still(event, old)) return;
      pause_briefly();
    }
    int64_t now = now_ns();
    if (end == 0) end = now + spin_ns;
    if (now >= end) break;
  }
  for (int i = 0; i < YIELDS; ++i) {
    if (!is_still(event, old)) return;
    sched_yield();
  }
  event_sleep(event, old);
}

static void event_set(fw_event *event, unsigned value) {
  atomic_store(&event->value, value);
  if (atomic_load(&event->sleepers) == 0) return;
#ifdef FW_FUTEX
  syscall(SYS_futex, &event->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
  pthread_mutex_lock(&event->mutex);
  pthread_cond_broadcast(&event->changed);
  pthread_mutex_unlock(&event->mutex);
#endif
}

static void barrier(fw_team *face, int tid) {
  team *t = (team *)face;
  (void)tid;
  /* Read before arriving: afterwards the last thread may start the next generation at any moment. */
  unsigned generation = atomic_load_explicit(&t->generation.value, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) == face->nthreads - 1) {
    atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
    event_set(&t->generation, generation + 1);
  } else {
    event_wait(&t->generation, generation, t->spin_ns);
  }
}

static void no_barrier(fw_team *face, int tid) {
  (void)face;
  (void)tid;
}

static void *work(void *arg) {
  worker_args args = *(worker_args *)arg;
  team *t = args.team;
  free(arg);
  for (unsigned region = 0;; ++region) { /* unsigned: wraps as the event does */
    event_wait(&t->region, region, t->spin_ns);
    if (t->stop) return NULL;
    t->fn(t->arg, args.tid, t->face.nthreads, &t->face);
    barrier(&t->face, args.tid);
  }
}

/* Start worker `tid`; nonzero when the system refuses. */
static int start_worker(team *t, int tid, const pthread_attr_t *attributes) {
  worker_args *args = malloc(sizeof *args);
  if (args == NULL) return -1;
  *args = (worker_args){t, tid};
  int status = pthread_create(&t->workers[tid - 1], attributes, work, args);
  if (status != 0) free(args);
#if defined(__GLIBC__)
  if (status == 0) pthread_setname_np(t->workers[tid - 1], "fusewire");
#endif
  return status;
}

/* Stop and join the first `started` workers, and free the team. */
static void dismiss(team *t, int started) {
  t->stop = 1;
  event_set(&t->region, atomic_load(&t->region.value) + 1);
  for (int i = 0; i < started; ++i) pthread_join(t->workers[i], NULL);
  event_destroy(&t->region);
  event_destroy(&t->generation);
  free(t);
}

/* A team of `nthreads`, the caller among them, that spins for `spin_ns` before it sleeps; NULL when the system gives no
   memory or no threads. */
fw_team *fw_team_create(int nthreads, int64_t spin_ns) {
  size_t bytes = sizeof(team) + sizeof(pthread_t) * (size_t)nthreads;
  team *t = aligned_alloc(CACHE_LINE, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
  if (t == NULL) return NULL;
  t->face = (fw_team){nthreads, nthreads > 1 ? barrier : no_barrier};
  t->spin_ns = spin_ns;
  t->stop = 0;
  event_init(&t->region);
  event_init(&t->generation);
  atomic_init(&t->arrived, 0);

  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  /* Signals are for the threads that the interpreter knows. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int tid = 1;
  while (tid < nthreads && start_worker(t, tid, &attributes) == 0) ++tid;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (tid == nthreads) return &t->face;
  dismiss(t, tid - 1);
  return NULL;
}

/* Run `fn` on every thread of the team; returns when all are done. One caller at a time. */
void fw_team_run(fw_team *face, fw_region fn, void *arg) {
  team *t = (team *)face;
  if (face->nthreads > 1) {
    t->fn = fn;
    t->arg = arg;
    event_set(&t->region, atomic_load_explicit(&t->region.value, memory_order_relaxed) + 1);
  }
  fn(arg, 0, face->nthreads, face);
  if (face->nthreads > 1) barrier(face, 0);
}

/* End the team's threads and free it. No region may be running. */
void fw_team_destroy(fw_team *face) {
  team *t = (team *)face;
  dismiss(t, face->nthreads - 1);
}
