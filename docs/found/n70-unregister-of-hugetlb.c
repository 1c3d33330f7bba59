// N70: UFFDIO_UNREGISTER up to the middle of a hugetlb page. Needs one page in the pool. Run without arguments.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20 };

// Bit 57 of pagemap: write-protected by userfaultfd.
static int protected(const char *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (fd < 0 || pread(fd, &entry, sizeof(entry), (uintptr_t)at / PAGE * sizeof(entry)) != sizeof(entry))
		perror("pagemap");
	close(fd);
	return entry >> 57 & 1;
}

static int try(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	char *m = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct uffdio_range part = { 0 };
	int before, after, result, error;

	if (m == MAP_FAILED || fd < 0 || ioctl(fd, UFFDIO_API, &api))
		return perror("prepare"), 1;
	m[0] = 1;
	reg.range.start = wp.range.start = part.start = (uintptr_t)m;
	reg.range.len = wp.range.len = HUGE;
	part.len = PAGE;
	if (ioctl(fd, UFFDIO_REGISTER, &reg) || ioctl(fd, UFFDIO_WRITEPROTECT, &wp))
		return perror("protect"), 1;
	before = protected(m);
	result = ioctl(fd, UFFDIO_UNREGISTER, &part);
	error = errno;
	after = protected(m);
	printf("protected: %d; unregister: %s; protected: %d; still registered: %s\n", before,
	       result ? strerror(error) : "done", after, ioctl(fd, UFFDIO_WRITEPROTECT, &wp) ? "no" : "yes");
	return 0;
}

int main(void)
{
	int init = getpid() == 1, result;
	FILE *pool;

	if (init)
		mount("proc", "/proc", "proc", 0, NULL);
	pool = fopen("/proc/sys/vm/nr_hugepages", "w");
	if (pool && (fputs("2", pool) < 0 || fclose(pool)))
		perror("nr_hugepages");
	result = try();
	fflush(stdout);
	if (init)
		reboot(RB_POWER_OFF);
	return result;
}
