// A management library that says what the file PLAY holds: a number above 0 is an XID, one below 0 an error of the
// library, -10000 lets it hang, nothing is a GPU that is well. PLAY.starts counts the driver's restarts: a library that was
// opened before the last one only fails.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  void *device;
  unsigned long long type;
  unsigned long long data;
  unsigned int instance;
  unsigned int compute;
} Event;

static int gpu, other;
static int opened = -1;

static int number_in(const char *path) {
  int number = 0;
  FILE *file = fopen(path, "r");
  if (file) {
    if (fscanf(file, "%d", &number) != 1) number = 0;
    fclose(file);
  }
  return number;
}

static int played(void) {
  int number;
  while ((number = number_in(PLAY)) == -10000) usleep(10000);
  if (opened >= 0 && opened != number_in(PLAY ".starts")) return -1;  // NVML_ERROR_UNINITIALIZED
  return number;
}

static int error(void) {
  int number = played();
  return number < 0 ? -number : 0;
}

int nvmlInit_v2(void) {
  opened = number_in(PLAY ".starts");
  return error();
}
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return error(); }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  (void)index;
  *device = &gpu;
  return error();
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = strncmp(uuid, "GPU-0202", 8) ? &gpu : &other;
  return error();
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned int *rates) {
  rates[0] = device == &gpu ? 50 : 25;
  rates[1] = 0;
  return error();
}
int nvmlEventSetCreate(void **set) { *set = &gpu; return error(); }
int nvmlEventSetFree(void *set) { (void)set; return 0; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
  (void)device; (void)types; (void)set;
  return error();
}
int nvmlEventSetWait_v2(void *set, Event *event, unsigned int milliseconds) {
  (void)set; (void)milliseconds;
  int number = played();
  if (number < 0) return -number;
  if (number == 0) {
    usleep(10000);
    return 10;  // NVML_ERROR_TIMEOUT
  }
  event->device = &gpu;
  event->type = 8;  // nvmlEventTypeXidCriticalError
  event->data = number;
  return 0;
}
