/* Stands in for MIOpen: checks what it is told, computes on the host, writes down each call. */
#include <stdbool.h>
#include "fake.h"

enum { HANDLE = 1, TENSOR, CONV, POOLING };
int miopenCreate(fake_object **place) { return fake_new(place, HANDLE); }
int miopenDestroy(fake_object *object) { return fake_end(object, HANDLE); }
int miopenSetStream(fake_object *handle, void *stream) { return fake_call("miopenSetStream", "%ld", (long)stream); }
int miopenCreateTensorDescriptor(fake_object **place) { return fake_new(place, TENSOR); }
int miopenDestroyTensorDescriptor(fake_object *object) { return fake_end(object, TENSOR); }
int miopenCreateConvolutionDescriptor(fake_object **place) { return fake_new(place, CONV); }
int miopenDestroyConvolutionDescriptor(fake_object *object) { return fake_end(object, CONV); }
int miopenCreatePoolingDescriptor(fake_object **place) { return fake_new(place, POOLING); }
int miopenDestroyPoolingDescriptor(fake_object *object) { return fake_end(object, POOLING); }

int miopenSet4dTensorDescriptor(fake_object *o, int type, int n, int c, int h, int w) {
  int v[] = {n, c, h, w, type};
  memcpy(o->v, v, sizeof v);
  return o->kind == TENSOR ? 0 : 3;
}
int miopenInitConvolutionDescriptor(fake_object *o, int mode, int ph, int pw, int sh, int sw, int dh, int dw) {
  int v[] = {ph, pw, sh, sw, dh, dw};
  memcpy(o->v, v, sizeof v);
  return o->kind == CONV && mode == 0 ? 0 : 3;
}
int miopenSetConvolutionGroupCount(fake_object *o, int groups) { o->v[6] = groups; return o->kind == CONV ? 0 : 3; }
int miopenSet2dPoolingDescriptor(fake_object *o, int mode, int wh, int ww, int ph, int pw, int sh, int sw) {
  int v[] = {wh, ww, ph, pw, sh, sw, mode};
  memcpy(o->v, v, sizeof v);
  return o->kind == POOLING ? 0 : 3;
}
static int wrong(fake_object *x, fake_object *w, fake_object *c, fake_object *y) {
  if (x->kind != TENSOR || w->kind != TENSOR || c->kind != CONV || y->kind != TENSOR) return 3;
  if (x->v[4] != 1 || w->v[4] != 1 || y->v[4] != 1) return 6; /* float32 */
  if (x->v[1] != w->v[1] * c->v[6] || w->v[0] != y->v[1] || x->v[0] != y->v[0]) return 3;
  for (int k = 0; k < 2; ++k)
    if (y->v[2 + k] != (x->v[2 + k] + 2 * c->v[k] - (w->v[2 + k] - 1) * c->v[4 + k] - 1) / c->v[2 + k] + 1) return 3;
  return 0;
}
int miopenConvolutionForwardGetWorkSpaceSize(fake_object *handle, fake_object *w, fake_object *x, fake_object *c,
                                             fake_object *y, size_t *size) {
  *size = 8192;
  return wrong(x, w, c, y);
}
typedef struct { int algo; float time; size_t memory; } performance;
int miopenFindConvolutionForwardAlgorithm(fake_object *handle, fake_object *x, void *xd, fake_object *w, void *wd,
                                          fake_object *c, fake_object *y, char *yd, int wanted, int *count,
                                          performance *found, char *space, size_t size, bool exhaustive) {
  int status = fake_call("miopenFindConvolutionForwardAlgorithm", "%d, %zu, %d", wanted, size, exhaustive);
  if (status == -1) return *count = 0;
  if (status || (status = wrong(x, w, c, y))) return status;
  memset(yd, 1, 4 * (size_t)y->v[0] * y->v[1] * y->v[2] * y->v[3]); /* it runs on this memory */
  memset(space, 1, size);
  performance all[] = {{0, 0.5f, 8192}, {3, 0.25f, 1024}, {1, 0.75f, 0}};
  memcpy(found, all, sizeof all);
  *count = 3;
  handle->v[0] = 1;
  return 0;
}
int miopenConvolutionForward(fake_object *handle, const float *alpha, fake_object *x, const void *xd, fake_object *w,
                             const void *wd, fake_object *c, int algo, const float *beta, fake_object *y, void *yd,
                             void *space, size_t size) {
  int status = fake_call("miopenConvolutionForward", "%d, %zu", algo, size);
  if (status || (status = wrong(x, w, c, y))) return status;
  if (!handle->v[0]) return 7; /* a search has to come first */
  if (*alpha != 1 || *beta || algo != 3 || !space || size != 1024) return 3;
  memset(space, 7, size);
  fake_conv(xd, x->v, wd, w->v, yd, y->v, c->v, c->v[6]);
  return 0;
}
int miopenPoolingForward(fake_object *handle, fake_object *p, const float *alpha, fake_object *x, const void *xd,
                         const float *beta, fake_object *y, void *yd, bool back, void *space, size_t size) {
  int status = fake_call("miopenPoolingForward", "%d", p->v[6]);
  if (status || *alpha != 1 || *beta || back || space || size) return status ? status : 3;
  static const int kinds[] = {0, 2, 1}; /* largest, average of data, average with the padding */
  fake_pool(xd, x->v, yd, y->v, p->v, kinds[p->v[6]]);
  return 0;
}
int miopenSoftmaxForward_V2(fake_object *handle, const float *alpha, fake_object *x, const void *xd, const float *beta,
                            fake_object *y, void *yd, int algo, int mode) {
  int status = fake_call("miopenSoftmaxForward_V2", "%d, %d", algo, mode);
  if (status || mode != 1 || *alpha != 1 || *beta || memcmp(x->v, y->v, 20)) return status ? status : 3;
  fake_softmax(xd, yd, x->v, algo == 2);
  return 0;
}
