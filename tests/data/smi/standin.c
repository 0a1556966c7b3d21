/* A stand-in for ROCm's libamd_smi.so, for machines without a GPU of AMD. Test code: it is compiled
 * by the tests and never shipped.
 *
 * It keeps the binary interface of one release: ABI is 61, 62, 63, 64 or 70 (-DABI=70), and
 * stubs.h, which the tests write from the real Python wheel of that release, names every other
 * function that the wheel binds when it is imported. Sizes were measured on the wheels; functions
 * whose structure grew between releases fill all of it, so that a caller who brought the smaller one
 * of another release is overwritten and dies.
 *
 * What the GPUs show stands in the file $SMI_STATE, which is read again when it changes:
 *
 *     init=34                              status of amdsmi_init
 *     do=hang | chatter | abort | segfault what the next question for memory in use does
 *     say=TEXT                             printed to standard output by that question
 *     bdf=0000:05:00.0;total=206141652992;used=297771008;id=0x74a1;activity=3;hotspot=41;...
 *
 * one line for each GPU. A quantity that is left out is not supported, as in the real library:
 * 0xFFFF for the activity, all bits for a clock, NOT_SUPPORTED for the rest. `lost=1` makes every
 * question about a GPU fail.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef ABI
#error "name the release whose interface is wanted, such as -DABI=70"
#endif

typedef uint32_t Status;
enum { SUCCESS = 0, INVAL = 1, NOT_SUPPORTED = 2, IO = 12, NOT_FOUND = 31, NOT_INIT = 32 };
enum { MOST_GPUS = 64, LINE = 512 };

/* ---- what the state file says ---- */

typedef struct {
  char bdf[32], compute[8], memory[8];
  int socket, lost;
  /* -1: the GPU does not tell */
  int64_t total, used, id, activity, hotspot, edge, vram, sclk, mclk, ue, hip;
} Gpu;

static Gpu gpus[MOST_GPUS];
static int count, sockets;
static Status init_status;
static char deed[LINE], saying[LINE];
static struct stat seen;

static const struct { const char *key; size_t offset; } NUMBERS[] = {
    {"total", offsetof(Gpu, total)},     {"used", offsetof(Gpu, used)},
    {"id", offsetof(Gpu, id)},           {"activity", offsetof(Gpu, activity)},
    {"hotspot", offsetof(Gpu, hotspot)}, {"edge", offsetof(Gpu, edge)},
    {"vram", offsetof(Gpu, vram)},       {"sclk", offsetof(Gpu, sclk)},
    {"mclk", offsetof(Gpu, mclk)},       {"ue", offsetof(Gpu, ue)},
    {"hip", offsetof(Gpu, hip)},
};

static void read_pair(Gpu *gpu, const char *key, const char *value) {
  if (!strcmp(key, "bdf")) snprintf(gpu->bdf, sizeof gpu->bdf, "%s", value);
  if (!strcmp(key, "compute")) snprintf(gpu->compute, sizeof gpu->compute, "%s", value);
  if (!strcmp(key, "memory")) snprintf(gpu->memory, sizeof gpu->memory, "%s", value);
  if (!strcmp(key, "lost")) gpu->lost = atoi(value);
  for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
    if (!strcmp(key, NUMBERS[i].key))
      *(int64_t *)((char *)gpu + NUMBERS[i].offset) = strtoll(value, NULL, 0);
}

static void read_gpu(char *line) {
  Gpu *gpu = &gpus[count];
  memset(gpu, 0, sizeof *gpu);
  for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
    *(int64_t *)((char *)gpu + NUMBERS[i].offset) = -1;
  char *rest = NULL;
  for (char *pair = strtok_r(line, ";", &rest); pair; pair = strtok_r(NULL, ";", &rest)) {
    char *equals = strchr(pair, '=');
    if (!equals) continue;
    *equals = 0;
    read_pair(gpu, pair, equals + 1);
  }
  /* a package is the address without the function; its partitions follow each other */
  size_t package = strcspn(gpu->bdf, ".");
  int same = count && !strncmp(gpu->bdf, gpus[count - 1].bdf, package);
  gpu->socket = same ? gpus[count - 1].socket : sockets++;
  count++;
}

static void load(void) {
  const char *name = getenv("SMI_STATE");
  struct stat now;
  if (!name || stat(name, &now)) return;
  if (now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
      !memcmp(&now.st_mtim, &seen.st_mtim, sizeof now.st_mtim))
    return;
  seen = now;
  count = sockets = 0;
  init_status = SUCCESS;
  deed[0] = saying[0] = 0;
  FILE *file = fopen(name, "r");
  char line[LINE];
  while (file && fgets(line, sizeof line, file) && count < MOST_GPUS) {
    line[strcspn(line, "\r\n")] = 0;
    if (!strncmp(line, "init=", 5)) init_status = (Status)atoi(line + 5);
    else if (!strncmp(line, "do=", 3)) snprintf(deed, sizeof deed, "%s", line + 3);
    else if (!strncmp(line, "say=", 4)) snprintf(saying, sizeof saying, "%s", line + 4);
    else if (!strncmp(line, "bdf=", 4)) read_gpu(line);
  }
  if (file) fclose(file);
}

/* ---- life cycle and handles: numbers that nobody looks behind ---- */

#define SOCKET(i) ((void *)(uintptr_t)(0x1000 + (i)))
#define GPU(i) ((void *)(uintptr_t)(0x2000 + (i)))

static int started;

Status amdsmi_init(uint64_t flags) {
  (void)flags;
  load();
  if (init_status == SUCCESS) started++;
  return init_status;
}

Status amdsmi_shut_down(void) {
  if (!started) return NOT_INIT;
  started--;
  return SUCCESS;
}

Status amdsmi_get_socket_handles(uint32_t *number, void **handles) {
  if (!started) return NOT_INIT;
  load();
  for (int i = 0; handles && i < sockets && (uint32_t)i < *number; i++) handles[i] = SOCKET(i);
  *number = (uint32_t)sockets;
  return SUCCESS;
}

Status amdsmi_get_processor_handles(void *socket, uint32_t *number, void **handles) {
  if (!started) return NOT_INIT;
  uint32_t found = 0;
  for (int i = 0; i < count; i++) {
    if (SOCKET(gpus[i].socket) != socket) continue;
    if (handles && found < *number) handles[found] = GPU(i);
    found++;
  }
  *number = found;
  return SUCCESS;
}

static Status find(void *handle, Gpu **gpu) {
  if (!started) return NOT_INIT;
  load();
  uintptr_t index = (uintptr_t)handle - (uintptr_t)GPU(0);
  if (index >= (uintptr_t)count) return NOT_FOUND;
  *gpu = &gpus[index];
  return (*gpu)->lost ? IO : SUCCESS;
}

#define FIND(handle) \
  Gpu *gpu; \
  Status status = find(handle, &gpu); \
  if (status != SUCCESS) return status

/* ---- what has one size in all releases ---- */

Status amdsmi_get_gpu_device_bdf(void *handle, uint64_t *bdf) {
  FIND(handle);
  unsigned domain = 0, bus = 0, device = 0, function = 0;
  sscanf(gpu->bdf, "%x:%x:%x.%x", &domain, &bus, &device, &function);
  *bdf = (uint64_t)domain << 16 | bus << 8 | device << 3 | function;
  return SUCCESS;
}

static Status tell(int64_t value, uint64_t *out) {
  if (value < 0) return NOT_SUPPORTED;
  *out = (uint64_t)value;
  return SUCCESS;
}

Status amdsmi_get_gpu_memory_total(void *handle, uint32_t kind, uint64_t *bytes) {
  FIND(handle);
  return kind ? NOT_SUPPORTED : tell(gpu->total, bytes);
}

/* Hang; before that, open and close the file $SMI_HANGS, so that a test can wait for it. */
static void hang(void) {
  const char *name = getenv("SMI_HANGS");
  FILE *file = name ? fopen(name, "w") : NULL;
  if (file) fclose(file);
  for (;;) pause();
}

Status amdsmi_get_gpu_memory_usage(void *handle, uint32_t kind, uint64_t *bytes) {
  FIND(handle);
  if (saying[0]) printf("%s\n", saying), fflush(stdout);
  if (!strcmp(deed, "abort")) abort();
  if (!strcmp(deed, "segfault")) *(volatile int *)0 = 0;
  if (!strcmp(deed, "hang")) hang();
  while (!strcmp(deed, "chatter")) puts("chatter");
  return kind ? NOT_SUPPORTED : tell(gpu->used, bytes);
}

Status amdsmi_get_gpu_id(void *handle, uint16_t *id) {
  FIND(handle);
  if (gpu->id < 0) return NOT_SUPPORTED;
  *id = (uint16_t)gpu->id;
  return SUCCESS;
}

static Status copy(const char *text, char *out, uint32_t length) {
  if (!text[0]) return NOT_SUPPORTED;
  snprintf(out, length, "%s", text);
  return SUCCESS;
}

Status amdsmi_get_gpu_compute_partition(void *handle, char *text, uint32_t length) {
  FIND(handle);
  return copy(gpu->compute, text, length);
}

Status amdsmi_get_gpu_memory_partition(void *handle, char *text, uint32_t length) {
  FIND(handle);
  return copy(gpu->memory, text, length);
}

Status amdsmi_get_temp_metric(void *handle, uint32_t sensor, uint32_t metric, int64_t *degrees) {
  FIND(handle);
  int64_t value = sensor == 0 ? gpu->edge : sensor == 1 ? gpu->hotspot : gpu->vram;
  if (metric || value < 0) return NOT_SUPPORTED;
  *degrees = value;
  return SUCCESS;
}

typedef struct { uint32_t gfx, umc, mm, reserved[13]; } Activity;
_Static_assert(sizeof(Activity) == 64, "amdsmi_engine_usage_t");

Status amdsmi_get_gpu_activity(void *handle, Activity *out) {
  FIND(handle);
  memset(out, 0, sizeof *out);
  out->gfx = gpu->activity < 0 ? 0xFFFF : (uint32_t)gpu->activity;
  out->umc = out->mm = 0xFFFF;
  return SUCCESS;
}

typedef struct { uint32_t now, least, most; uint8_t locked, asleep, padding[2]; uint32_t reserved[4]; } Clock;
_Static_assert(sizeof(Clock) == 32, "amdsmi_clk_info_t");

Status amdsmi_get_clock_info(void *handle, uint32_t kind, Clock *out) {
  FIND(handle);
  memset(out, 0, sizeof *out);
  int64_t value = kind == 0 ? gpu->sclk : kind == 4 ? gpu->mclk : -1;
  out->now = value < 0 ? UINT32_MAX : (uint32_t)value;
  return SUCCESS;
}

typedef struct { uint64_t corrected, uncorrected, deferred, reserved[5]; } Errors;
_Static_assert(sizeof(Errors) == 64, "amdsmi_error_count_t");

Status amdsmi_get_gpu_total_ecc_count(void *handle, Errors *out) {
  FIND(handle);
  if (gpu->ue < 0) return NOT_SUPPORTED;
  memset(out, 0, sizeof *out);
  out->uncorrected = (uint64_t)gpu->ue;
  return SUCCESS;
}

#if ABI >= 64
typedef struct { uint32_t render, card, hsa, hip; char uuid[256]; } Enumeration;
_Static_assert(sizeof(Enumeration) == 272, "amdsmi_enumeration_info_t");

Status amdsmi_get_gpu_enumeration_info(void *handle, Enumeration *out) {
  FIND(handle);
  memset(out, 0, sizeof *out);
  out->render = out->card = out->hsa = UINT32_MAX;
  out->hip = gpu->hip < 0 ? UINT32_MAX : (uint32_t)gpu->hip;
  return SUCCESS;
}
#endif

/* ---- what grew: all of it is written, so that a smaller structure is overrun ---- */

enum {
  ASIC = ABI >= 64 ? 896 : ABI == 63 ? 456 : ABI == 62 ? 448 : 256,
  DRIVER = ABI >= 64 ? 768 : 192,
  POWER = ABI >= 70 ? 192 : ABI >= 64 ? 40 : 68,
  VRAM = ABI >= 70 ? 584 : ABI >= 62 ? 64 : 16,
  METRICS = ABI >= 70 ? 4544 : ABI >= 64 ? 2368 : ABI == 63 ? 1832 : 424,
};

#define GROWN(name, size) \
  Status name(void *handle, void *out) { \
    FIND(handle); \
    memset(out, 0xA5, size); \
    return SUCCESS; \
  }

GROWN(amdsmi_get_gpu_asic_info, ASIC)
GROWN(amdsmi_get_gpu_driver_info, DRIVER)
GROWN(amdsmi_get_power_info, POWER)
GROWN(amdsmi_get_gpu_vram_info, VRAM)
GROWN(amdsmi_get_gpu_metrics_info, METRICS)

/* ---- every other function that the wheel binds; written by the tests ---- */

#define STUB(name) \
  Status name(void) { return NOT_SUPPORTED; }
#include "stubs.h"
