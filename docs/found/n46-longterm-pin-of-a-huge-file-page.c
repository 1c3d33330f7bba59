// N46: a long-term pin, for reading, of a private mapping of a huge page of tmpfs.
//
// Runs as /init of a kernel with CONFIG_GUP_TEST and huge pages, or as root. For each kind of mapping a child asks
// gup_test for one page with FOLL_PIN | FOLL_LONGTERM; after ten seconds it is killed. While it is in the call,
// thp_file_mapped and thp_split_pmd of /proc/vmstat say what it does there.
//
//     gcc -O1 -static -o init n46-longterm-pin-of-a-huge-file-page.c
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE_SIZE (2ul << 20)

// Declared here because the header of gup_test is not exported.
struct gup_request {
	uint64_t get_usec, put_usec, addr, size;
	uint32_t pages_per_call, gup_flags, test_flags, dump[8];
};
#define GUP_PIN_LONGTERM _IOWR('g', 3, struct gup_request)

struct kind {
	const char *what;
	const char *dir;
	int flags, advice;
};

static long vmstat(const char *name)
{
	char line[128];
	long value = -1;
	FILE *f = fopen("/proc/vmstat", "r");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ' ')
			sscanf(line + strlen(name), "%ld", &value);
	if (f)
		fclose(f);
	return value;
}

static int pin(const struct kind *kind)
{
	char path[64];
	struct gup_request request = { .size = 4096, .pages_per_call = 1 };
	int fd, test, ret;
	char *room, *map;

	snprintf(path, sizeof(path), "%s/file", kind->dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, HUGE_SIZE))
		return 2;
	map = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset(map, 7, HUGE_SIZE);
	munmap(map, HUGE_SIZE);
	room = mmap(NULL, 2 * HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map = (char *)(((uintptr_t)room + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
	map = mmap(map, HUGE_SIZE, PROT_READ | PROT_WRITE, kind->flags | MAP_FIXED, fd, 0);
	if (kind->advice)
		madvise(map, HUGE_SIZE, kind->advice);
	*(volatile char *)map;
	test = open("/sys/kernel/debug/gup_test", O_RDWR);
	request.addr = (uintptr_t)map + 3 * 4096;
	ret = ioctl(test, GUP_PIN_LONGTERM, &request);
	printf("%-45s %s\n", kind->what, ret ? strerror(errno) : "pinned");
	fflush(stdout);
	return 0;
}

static void try(const struct kind *kind)
{
	long mapped = vmstat("thp_file_mapped"), split = vmstat("thp_split_pmd");
	int status, tenths;
	pid_t child = fork();

	if (!child)
		_exit(pin(kind));
	for (tenths = 0; tenths < 100; tenths++) {
		if (waitpid(child, &status, WNOHANG) == child)
			return;
		usleep(100000);
	}
	printf("%-45s still in the call after 10 s\n", kind->what);
	if (mapped >= 0)
		printf("%-45s mapped huge %ld times, split %ld times\n", "", vmstat("thp_file_mapped") - mapped,
		       vmstat("thp_split_pmd") - split);
	fflush(stdout);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
}

int main(void)
{
	static const struct kind kinds[] = {
		{ "small pages, private", "/small", MAP_PRIVATE, 0 },
		{ "huge page, shared", "/huge", MAP_SHARED, 0 },
		{ "huge page, private, MADV_NOHUGEPAGE", "/huge", MAP_PRIVATE, MADV_NOHUGEPAGE },
		{ "huge page, private", "/huge", MAP_PRIVATE, 0 },
	};
	char version[128] = "";
	unsigned int i;
	int fd;

	mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/small", 0755), mkdir("/huge", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	mount("tmpfs", "/small", "tmpfs", 0, "huge=never");
	mount("tmpfs", "/huge", "tmpfs", 0, "huge=always");
	fd = open("/proc/sys/kernel/osrelease", O_RDONLY);
	if (fd >= 0 && read(fd, version, sizeof(version) - 1) > 0)
		printf("%s", version);
	fflush(stdout);
	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		try(&kinds[i]);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
