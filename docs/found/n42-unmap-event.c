// N42: UFFD_EVENT_UNMAP of a munmap() or mmap() that fails. Run as: n42-unmap-event seal|huge|limit
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum { PAGE = 4096, HUGE = 2 << 20 };
static int uffd;
static volatile int done;

static void *monitor(void *unused)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };
	struct uffd_msg m;

	while (!done)
		if (poll(&p, 1, 50) > 0 && read(uffd, &m, sizeof(m)) == sizeof(m) && m.event == UFFD_EVENT_UNMAP)
			printf("event: %lld pages are gone\n", (long long)(m.arg.remove.end - m.arg.remove.start) / PAGE);
	return unused;
}

static void *map(void *at, size_t len, int flags)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

int main(int argc, char **argv)
{
	static char page[PAGE] __attribute__((aligned(PAGE))) = "still there";
	const char *how = argc > 1 ? argv[1] : "seal";
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP };
	char *area = mmap(NULL, 4 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *huge = (char *)(((unsigned long)area + 2 * HUGE) & ~(HUGE - 1ul));
	char *small = map(huge - 4 * PAGE, 4 * PAGE, MAP_FIXED);
	struct uffdio_register reg = { .range = { (unsigned long)small, 4 * PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy copy = { .dst = (unsigned long)small, .src = (unsigned long)page, .len = PAGE };
	struct rlimit limit = { 64 << 20, 64 << 20 };
	pthread_t thread;
	long result;

	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, UFFDIO_COPY, &copy))
		return perror("userfaultfd"), 1;
	pthread_create(&thread, NULL, monitor, NULL);
	if (!strcmp(how, "seal")) {
		map(huge, 4 * PAGE, MAP_FIXED);
		if (syscall(SYS_mseal, huge, 4 * PAGE, 0))
			return perror("mseal"), 1;
		result = munmap(small, 8 * PAGE);
	} else if (!strcmp(how, "huge")) {
		if (map(huge, HUGE, MAP_FIXED | MAP_HUGETLB | MAP_NORESERVE) == MAP_FAILED)
			return perror("MAP_HUGETLB"), 1;
		result = munmap(small, 5 * PAGE);
	} else {
		setrlimit(RLIMIT_AS, &limit);
		result = map(small, 1 << 30, MAP_FIXED) == MAP_FAILED ? -1 : 0;
	}
	printf("%s: %s\n", how, result ? strerror(errno) : "done");
	usleep(200000);
	printf("the page: %s\n", small);
	done = 1;
	pthread_join(thread, NULL);
	return 0;
}
