// Asks CUDA which GPUs a program has here, and prints the answer as one line of JSON:
//
//	{"library":"/usr/lib/x86_64-linux-gnu/libcuda.so.1","version":12040,"devices":[{"uuid":"GPU-…","name":"Tesla T4",
//	 "sm":75,"memory":15828320256,"mig":false,"pci":"0000:00:04.0"}],"call":"","error":0,"name":"","loader":""}
//
// call, error and name are the call that failed, its number and CUDA's name for it; loader is what the dynamic loader says
// where libcuda.so.1 or a function of it cannot be had. The devices are those that CUDA_VISIBLE_DEVICES leaves.
//
// llcuda-fetch runs it as a child process, because the client itself is static and because drivers hang and crash. It makes
// no context: that takes time and the GPU's memory. With -DREACH it starts on every glibc.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#ifdef REACH
// The versions that x86-64 began with. The linker would take those of the glibc that it links with, which are newer.
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver dlerror, dlerror@GLIBC_2.2.5");
__asm__(".symver dladdr, dladdr@GLIBC_2.2.5");
__asm__(".symver __libc_start_main, __libc_start_main@GLIBC_2.2.5");
int __libc_start_main(int (*)(void), int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
int main(void);

// In the place of crt1.o's, which asks for the newest __libc_start_main.
__attribute__((used)) static void start(long *stack, void (*at_exit)(void)) {
	__libc_start_main(main, (int)stack[0], (char **)(stack + 1), NULL, NULL, at_exit, stack);
}
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tmov %rdx, %rsi\n\tand $-16, %rsp\n\tcall start\n\thlt\n");
#endif

// The driver API, as cuda.h declares it. These functions' binary interface has been the same since CUDA 4.
typedef struct {
	unsigned char bytes[16];
} uuid_t;
enum { ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76 };

static void *driver;
static const char *call = "";
static int error;

static void text(const char *key, const char *value) {
	printf("\"%s\":\"", key);
	for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
		if (*c == '"' || *c == '\\')
			printf("\\%c", *c);
		else if (*c < ' ')
			printf("\\u%04x", *c);
		else
			putchar(*c);
	}
	putchar('"');
}

// finish prints the end of the line, which is the same for every answer.
static int finish(const char *loader) {
	int (*name_of)(int, const char **) = driver ? (int (*)(int, const char **))dlsym(driver, "cuGetErrorName") : NULL;
	const char *name = NULL;
	if (!error || !name_of || name_of(error, &name) || !name)
		name = "";
	printf(",");
	text("call", call);
	printf(",\"error\":%d,", error);
	text("name", name);
	printf(",");
	text("loader", loader);
	printf("}\n");
	return fflush(stdout) != 0;
}

// failed notes the first call that fails.
static int failed(const char *name, int result) {
	if (result && !error) {
		call = name;
		error = result;
	}
	return result;
}

int main(void) {
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none); // a driver that crashes shall leave nothing behind
	driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!driver) {
		const char *why = dlerror();
		printf("{\"library\":\"\",\"version\":0,\"devices\":[]");
		return finish(why ? why : "libcuda.so.1 cannot be loaded");
	}
	const char *missing = NULL;
#define FUNCTION(variable, symbol, ...)                                   \
	int (*variable)(__VA_ARGS__) = (int (*)(__VA_ARGS__))dlsym(driver, symbol); \
	if (!variable && !missing)                                        \
		missing = symbol;
	FUNCTION(init, "cuInit", unsigned)
	FUNCTION(driver_version, "cuDriverGetVersion", int *)
	FUNCTION(count_devices, "cuDeviceGetCount", int *)
	FUNCTION(get_device, "cuDeviceGet", int *, int)
	FUNCTION(get_name, "cuDeviceGetName", char *, int, int)
	FUNCTION(get_memory, "cuDeviceTotalMem_v2", size_t *, int)
	FUNCTION(get_attribute, "cuDeviceGetAttribute", int *, int, int)
	FUNCTION(get_pci, "cuDeviceGetPCIBusId", char *, int, int)
	const char *needed = missing;
	// The first gives the UUID of the GPU, the second that of the MIG slice; drivers before CUDA 9.2 and 11.4 have neither.
	FUNCTION(get_uuid, "cuDeviceGetUuid", uuid_t *, int)
	FUNCTION(get_slice, "cuDeviceGetUuid_v2", uuid_t *, int)

	Dl_info file;
	void *symbol = dlsym(driver, "cuInit");
	printf("{");
	text("library", symbol && dladdr(symbol, &file) && file.dli_fname ? file.dli_fname : "");
	int version = 0, count = 0;
	if (needed) {
		char loader[64];
		snprintf(loader, sizeof loader, "undefined symbol: %s", needed);
		printf(",\"version\":0,\"devices\":[]");
		return finish(loader);
	}
	if (driver_version(&version)) // needs no cuInit, and a driver that cannot say has more to say below
		version = 0;
	printf(",\"version\":%d,\"devices\":[", version);
	if (!failed("cuInit", init(0)))
		failed("cuDeviceGetCount", count_devices(&count));
	for (int i = 0; i < count && !error; i++) {
		int device, major, minor;
		size_t memory;
		char name[256] = "", pci[32] = "", uuid[64] = "";
		uuid_t gpu, slice;
		if (failed("cuDeviceGet", get_device(&device, i)) || failed("cuDeviceGetName", get_name(name, sizeof name - 1, device)) ||
		    failed("cuDeviceGetAttribute", get_attribute(&major, ATTRIBUTE_MAJOR, device)) ||
		    failed("cuDeviceGetAttribute", get_attribute(&minor, ATTRIBUTE_MINOR, device)) ||
		    failed("cuDeviceTotalMem", get_memory(&memory, device)))
			break;
		get_pci(pci, sizeof pci - 1, device); // WSL has none to give
		int mig = strstr(name, " MIG ") != NULL;
		if (get_uuid && !get_uuid(&gpu, device)) {
			if (get_slice && !get_slice(&slice, device)) {
				mig = mig || memcmp(&gpu, &slice, sizeof gpu);
				gpu = slice;
			}
			char *end = uuid + sprintf(uuid, mig ? "MIG" : "GPU");
			for (int b = 0; b < 16; b++)
				end += sprintf(end, b == 0 || b == 4 || b == 6 || b == 8 || b == 10 ? "-%02x" : "%02x", gpu.bytes[b]);
		}
		printf("%s{", i ? "," : "");
		text("uuid", uuid);
		printf(",");
		text("name", name);
		printf(",\"sm\":%d,\"memory\":%llu,\"mig\":%s,", major * 10 + minor, (unsigned long long)memory, mig ? "true" : "false");
		text("pci", pci);
		printf("}");
	}
	printf("]");
	return finish("");
}
