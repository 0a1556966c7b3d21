/* A stand-in for NVIDIA's libnvidia-ml.so.1, for machines without its driver. Test code, compiled
 * by the tests and never shipped. Structures as in nvml.h of CUDA 12.
 *
 * What it shows stands in the file $NVML_STATE: `init=9` is what nvmlInit returns, `old` hides the
 * second version of the memory call, and each other line is a GPU:
 *
 *     00000000:0F:00.0 TOTAL RESERVED USED [lost]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Return;
enum { SUCCESS, UNINITIALIZED, INVALID, NOT_SUPPORTED, SMALL = 7, LOST = 15, NO_FUNCTION = 13 };

typedef struct { char bus[32], lost[8]; uint64_t total, reserved, used; } Gpu;
static Gpu gpus[16];
static uint32_t count;
static int result, old;

static void load(void) {
  const char *name = getenv("NVML_STATE");
  FILE *file = name ? fopen(name, "r") : NULL;
  char line[256];
  count = 0, result = old = 0;
  while (file && fgets(line, sizeof line, file) && count < 16) {
    Gpu *gpu = &gpus[count];
    memset(gpu, 0, sizeof *gpu);
    if (sscanf(line, "init=%d", &result) == 1) continue;
    if (!strncmp(line, "old", 3)) old = 1;
    else if (sscanf(line, "%31s %lu %lu %lu %7s", gpu->bus, &gpu->total, &gpu->reserved,
                    &gpu->used, gpu->lost) >= 4)
      count++;
  }
  if (file) fclose(file);
}

#define FIND(handle) \
  load(); \
  Gpu *gpu = &gpus[(uintptr_t)(handle) - 1]; \
  if (gpu->lost[0]) return LOST

Return nvmlInitWithFlags(uint32_t flags) { (void)flags; load(); return result; }
Return nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(Return code) { return code == 9 ? "Driver Not Loaded" : "Unknown"; }
Return nvmlSystemGetDriverVersion(char *text, uint32_t size) {
  return snprintf(text, size, "575.57.08"), SUCCESS;
}
Return nvmlSystemGetProcessName(uint32_t pid, char *text, uint32_t size) {
  return snprintf(text, size, "VLLM::Worker_%u", pid), SUCCESS;
}
Return nvmlDeviceGetCount_v2(uint32_t *number) { return load(), *number = count, SUCCESS; }
Return nvmlDeviceGetHandleByIndex_v2(uint32_t index, void **handle) {
  return *handle = (void *)(uintptr_t)(index + 1), SUCCESS;
}

typedef struct { char legacy[16]; uint32_t domain, bus, device, id, sub; char text[32]; } Pci;
Return nvmlDeviceGetPciInfo_v3(void *handle, Pci *out) {
  load();
  memset(out, 0, sizeof *out);
  out->id = 0x233010DE;
  memcpy(out->text, gpus[(uintptr_t)handle - 1].bus, sizeof out->text);
  return SUCCESS;
}
Return nvmlDeviceGetName(void *handle, char *text, uint32_t size) {
  FIND(handle);
  return snprintf(text, size, "NVIDIA H100 80GB HBM3"), SUCCESS;
}
Return nvmlDeviceGetUUID(void *handle, char *text, uint32_t size) {
  FIND(handle);
  return snprintf(text, size, "GPU-5a1d"), SUCCESS;
}
Return nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
  FIND(handle);
  return *major = 9, *minor = 0, SUCCESS;
}
Return nvmlDeviceGetMemoryInfo(void *handle, uint64_t out[3]) {
  FIND(handle);
  out[0] = gpu->total, out[2] = gpu->used + gpu->reserved, out[1] = out[0] - out[2];
  return SUCCESS;
}
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } Memory;
Return nvmlDeviceGetMemoryInfo_v2(void *handle, Memory *out) {
  FIND(handle);
  if (old) return NO_FUNCTION;
  out->total = gpu->total, out->reserved = gpu->reserved, out->used = gpu->used;
  return out->free = out->total - out->reserved - out->used, SUCCESS;
}
typedef struct { uint32_t pid; uint64_t used; uint32_t gpu_instance, compute_instance; } Process;
Return nvmlDeviceGetComputeRunningProcesses_v3(void *handle, uint32_t *number, Process *out) {
  FIND(handle);
  uint32_t room = *number;
  *number = gpu->used > 1 << 30;
  if (!*number) return SUCCESS;
  if (!out || room < 1) return SMALL;
  return *out = (Process){.pid = 4242, .used = gpu->used - (1 << 20)}, SUCCESS;
}
Return nvmlDeviceGetPowerUsage(void *handle, uint32_t *out) {
  FIND(handle);
  return *out = 121500, SUCCESS;
}
Return nvmlDeviceGetUtilizationRates(void *handle, uint32_t out[2]) {
  FIND(handle);
  return out[0] = 97, out[1] = 40, SUCCESS;
}
Return nvmlDeviceGetTemperature(void *handle, int sensor, uint32_t *out) {
  FIND(handle);
  return sensor ? INVALID : (*out = 36, SUCCESS);
}
Return nvmlDeviceGetClockInfo(void *handle, int kind, uint32_t *out) {
  FIND(handle);
  return *out = kind == 1 ? 1980 : kind == 2 ? 2619 : 0, SUCCESS;
}
Return nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, uint64_t *out) {
  FIND(handle);
  return kind == 1 && counter == 0 ? (*out = 0, SUCCESS) : INVALID;
}
