// Stands in for the driver's libcuda.so.1. What it does is in the environment:
//
//	STANDIN_GPUS   the GPUs of the machine: "75 Tesla T4" each, by ';'; one whose name has " MIG " is a slice
//	STANDIN_INIT   what cuInit gives, or "hang", "crash", "chatter"
//	STANDIN_FAIL   the function that fails, with STANDIN_ERROR
//
// As the driver does, it gives 100 where CUDA_VISIBLE_DEVICES is set and empty or -1; a digit leaves that GPU alone. 101 is
// for a GPU that is named twice.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char gpus[8][256];
static int count;

static const char *get(const char *name) {
	const char *value = getenv(name);
	return value ? value : "";
}

static int result(const char *function) { return strcmp(get("STANDIN_FAIL"), function) ? 0 : atoi(get("STANDIN_ERROR")); }

int cuInit(unsigned flags) {
	const char *how = get("STANDIN_INIT");
	if (!strcmp(how, "hang"))
		for (;;)
			pause();
	if (!strcmp(how, "crash"))
		raise(SIGSEGV);
	if (!strcmp(how, "chatter"))
		for (;;)
			puts("0123456789");
	if (atoi(how))
		return atoi(how);
	char all[2048];
	snprintf(all, sizeof all, "%s", get("STANDIN_GPUS"));
	for (char *gpu = strtok(all, ";"); gpu; gpu = strtok(NULL, ";"))
		snprintf(gpus[count++], sizeof gpus[0], "%s", gpu);
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	if (visible && !strcmp(visible, "0,0"))
		return 101;
	if (visible) {
		int at = *visible >= '0' && *visible <= '9' ? atoi(visible) : -1;
		if (at < 0 || at >= count)
			return 100;
		memmove(gpus[0], gpus[at], sizeof gpus[0]);
		count = 1;
	}
	return count ? 0 : 100 + flags;
}

int cuDriverGetVersion(int *version) {
	*version = 12040;
	return result("cuDriverGetVersion");
}

int cuDeviceGetCount(int *n) {
	*n = count;
	return result("cuDeviceGetCount");
}

int cuDeviceGet(int *device, int i) {
	*device = i;
	return result("cuDeviceGet");
}

int cuDeviceGetName(char *name, int size, int device) {
	snprintf(name, size, "%s", strchr(gpus[device], ' ') + 1);
	return result("cuDeviceGetName");
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
	*bytes = (size_t)(strstr(gpus[device], " MIG ") ? 9984 : 15095) << 20;
	return result("cuDeviceTotalMem");
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
	int sm = atoi(gpus[device]);
	*value = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : -1;
	return result("cuDeviceGetAttribute");
}

int cuDeviceGetPCIBusId(char *address, int size, int device) {
	snprintf(address, size, "0000:%02x:00.0", device);
	return result("cuDeviceGetPCIBusId");
}

int cuDeviceGetUuid(unsigned char *uuid, int device) {
	for (int i = 0; i < 16; i++)
		uuid[i] = device * 16 + i;
	return result("cuDeviceGetUuid");
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
	cuDeviceGetUuid(uuid, device);
	if (strstr(gpus[device], " MIG "))
		uuid[0] = 0xff;
	return result("cuDeviceGetUuid");
}

int cuGetErrorName(int error, const char **name) {
	static char text[64];
	snprintf(text, sizeof text, "CUDA_ERROR_OF_TEST_%d", error);
	*name = text;
	return 0;
}
