/* Stands in for cuDNN 9: checks descriptors, computes on the host, writes down each call. */
#include "fake.h"

enum { HANDLE = 1, TENSOR, FILTER, CONV, ACTIVATION, POOLING };
#define OBJECT(Name, KIND)                                                          \
  int cudnnCreate##Name(fake_object **place) { return fake_new(place, KIND); }      \
  int cudnnDestroy##Name(fake_object *object) { return fake_end(object, KIND); }
OBJECT(, HANDLE)
OBJECT(TensorDescriptor, TENSOR)
OBJECT(FilterDescriptor, FILTER)
OBJECT(ConvolutionDescriptor, CONV)
OBJECT(ActivationDescriptor, ACTIVATION)
OBJECT(PoolingDescriptor, POOLING)

void cudnnGetLastErrorString(char *text, size_t size) { snprintf(text, size, "the fake was told to fail"); }
static int set(fake_object *o, int kind, int n, ...) {
  if (o->kind != kind) return 2000;
  va_list list;
  va_start(list, n);
  for (int k = 0; k < n; ++k) o->v[k] = va_arg(list, int);
  va_end(list);
  return 0;
}
int cudnnSetStream(fake_object *handle, void *stream) {
  handle->stream = stream;
  return handle->kind == HANDLE ? fake_call("cudnnSetStream", "%ld", (long)stream) : 2000;
}
/* Sizes come first in v. */
int cudnnSetTensor4dDescriptor(fake_object *o, int format, int type, int n, int c, int h, int w) {
  if (format != 0 || n < 1 || c < 1 || h < 1 || w < 1) return 2000;
  return set(o, TENSOR, 5, n, c, h, w, type);
}
int cudnnSetFilter4dDescriptor(fake_object *o, int type, int format, int k, int c, int h, int w) {
  if (format != 0) return 2000;
  return set(o, FILTER, 5, k, c, h, w, type);
}
int cudnnSetConvolution2dDescriptor(fake_object *o, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int type) {
  if (mode != 1 || type != 0) return 2000;
  return set(o, CONV, 9, ph, pw, sh, sw, dh, dw, 1, 0, type);
}
int cudnnSetConvolutionGroupCount(fake_object *o, int groups) { o->v[6] = groups; return o->kind == CONV ? 0 : 2000; }
int cudnnSetConvolutionMathType(fake_object *o, int type) { o->v[7] = type; return o->kind == CONV ? 0 : 2000; }
int cudnnSetActivationDescriptor(fake_object *o, int mode, int nan, double coef) {
  o->d = coef;
  return set(o, ACTIVATION, 2, mode, nan);
}
int cudnnSetPooling2dDescriptor(fake_object *o, int mode, int nan, int wh, int ww, int ph, int pw, int sh, int sw) {
  if (ph >= wh || pw >= ww || nan != 1) return 2000;
  return set(o, POOLING, 8, wh, ww, ph, pw, sh, sw, mode, nan);
}

int cudnnGetConvolutionForwardAlgorithmMaxCount(fake_object *handle, int *count) { *count = 10; return 0; }
typedef struct { int algo, status; float time; size_t memory; int determinism, math, reserved[3]; } performance;

int fake_math; /* of the last convolution */
static int wrong(fake_object *x, fake_object *w, fake_object *c, fake_object *y) {
  if (x->kind != TENSOR || w->kind != FILTER || c->kind != CONV || y->kind != TENSOR) return 2000;
  if (x->v[4] || w->v[4] || y->v[4]) return 3000; /* float32 */
  fake_math = c->v[7];
  if (x->v[1] != w->v[1] * c->v[6] || w->v[0] != y->v[1] || w->v[0] % c->v[6] || x->v[0] != y->v[0]) return 2008;
  for (int k = 0; k < 2; ++k) {
    int reach = (w->v[2 + k] - 1) * c->v[4 + k] + 1;
    if (y->v[2 + k] != (x->v[2 + k] + 2 * c->v[k] - reach) / c->v[2 + k] + 1) return 2008;
  }
  return 0;
}
int cudnnFindConvolutionForwardAlgorithm(fake_object *handle, fake_object *x, fake_object *w, fake_object *c,
                                         fake_object *y, int wanted, int *count, performance *found) {
  int status = fake_call("cudnnFindConvolutionForwardAlgorithm", "%d", wanted);
  if (status || (status = wrong(x, w, c, y))) return status;
  performance all[] = {
      {6, 0, 0.01f, 64, 1, 1, {0}},       {7, 0, 0.02f, (size_t)5 << 30, 1, 3, {0}}, {1, 0, 0.05f, 4096, 1, 3, {0}},
      {0, 0, 0.30f, 0, 1, 3, {0}},        {1, 0, 0.40f, 4096, 1, 0, {0}},            {5, 0, 0.35f, 100, 1, 0, {0}},
      {3, 3000, -1.0f, 0, 0, 3, {0}},     {2, 3000, -1.0f, 0, 0, 3, {0}},
  };
  *count = sizeof all / sizeof *all;
  memcpy(found, all, sizeof all);
  return 0;
}
static int convolve(const float *alpha, fake_object *x, const void *xd, fake_object *w, const void *wd, fake_object *c,
                    int algo, void *space, size_t size, fake_object *y, void *yd) {
  int status = wrong(x, w, c, y);
  if (status) return status;
  if ((algo != 1 || size < 4096 || fake_math != 3) && (algo != 6 || size < 64 || fake_math != 1)) return 2006;
  if (!space || *alpha != 1) return 2000;
  memset(space, 7, size);
  fake_conv(xd, x->v, wd, w->v, yd, y->v, c->v, c->v[6]);
  return 0;
}
int cudnnConvolutionForward(fake_object *handle, const float *alpha, fake_object *x, const void *xd, fake_object *w,
                            const void *wd, fake_object *c, int algo, void *space, size_t size, const float *beta,
                            fake_object *y, void *yd) {
  int status = fake_call("cudnnConvolutionForward", "%d, %zu, %g", algo, size, *beta);
  return status ? status : *beta ? 2000 : convolve(alpha, x, xd, w, wd, c, algo, space, size, y, yd);
}
int cudnnConvolutionBiasActivationForward(fake_object *handle, const float *alpha, fake_object *x, const void *xd,
                                          fake_object *w, const void *wd, fake_object *c, int algo, void *space,
                                          size_t size, const float *alpha2, fake_object *z, const float *zd,
                                          fake_object *b, const float *bd, fake_object *act, fake_object *y, float *yd) {
  int status = fake_call("cudnnConvolutionBiasActivationForward", "%d, %zu, %g", algo, size, *alpha2);
  if (status) return status;
  if (!zd || !bd) return 2002;
  if (act->kind != ACTIVATION || act->v[0] != 1 || act->v[1] != 1) return 3000;
  if (b->v[0] != 1 || b->v[1] != y->v[1] || b->v[2] != 1 || b->v[3] != 1 || memcmp(z->v, y->v, 20)) return 2008;
  size_t count = (size_t)y->v[0] * y->v[1] * y->v[2] * y->v[3];
  float *result = malloc(4 * count);
  status = convolve(alpha, x, xd, w, wd, c, algo, space, size, y, result);
  for (size_t i = 0; !status && i < count; ++i) {
    float sum = result[i] + bd[i / (y->v[2] * y->v[3]) % y->v[1]] + (*alpha2 ? *alpha2 * zd[i] : 0);
    yd[i] = sum < 0 ? 0 : sum;
  }
  free(result);
  return status;
}
int cudnnAddTensor(fake_object *handle, const float *alpha, fake_object *a, const float *ad, const float *beta,
                   fake_object *y, float *yd) {
  int status = fake_call("cudnnAddTensor", "%d %d %d %d", a->v[0], a->v[1], a->v[2], a->v[3]);
  if (status || *alpha != 1 || *beta != 1) return status ? status : 2000;
  int i = 0;
  for (int n = 0; n < y->v[0]; ++n)
    for (int c = 0; c < y->v[1]; ++c)
      for (int h = 0; h < y->v[2] * y->v[3]; ++h) yd[i] += ad[a->v[0] == 1 && a->v[2] * a->v[3] == 1 ? c : i], ++i;
  return 0;
}
int cudnnPoolingForward(fake_object *handle, fake_object *p, const float *alpha, fake_object *x, const void *xd,
                        const float *beta, fake_object *y, void *yd) {
  int status = fake_call("cudnnPoolingForward", "%d, %g", p->v[6], *beta);
  if (status || p->kind != POOLING || *alpha != 1 || *beta) return status ? status : 2000;
  for (int k = 0; k < 2; ++k)
    if (y->v[2 + k] != (x->v[2 + k] + 2 * p->v[2 + k] - p->v[k]) / p->v[4 + k] + 1) return 2008;
  fake_pool(xd, x->v, yd, y->v, p->v, p->v[6]);
  return 0;
}
int cudnnSoftmaxForward(fake_object *handle, int algo, int mode, const float *alpha, fake_object *x, const void *xd,
                        const float *beta, fake_object *y, void *yd) {
  int status = fake_call("cudnnSoftmaxForward", "%d, %d", algo, mode);
  if (status || mode != 1 || *alpha != 1 || *beta || memcmp(x->v, y->v, 20)) return status ? status : 2000;
  fake_softmax(xd, yd, x->v, algo == 2);
  return 0;
}
