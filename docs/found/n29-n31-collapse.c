// N29 and N31: what MADV_COLLAPSE of shmem memory forgets. Run as root (it sets shmem_enabled), or as /init:
// n29-n31-collapse dirty|poison
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef UFFDIO_POISON
#define UFFD_FEATURE_POISON (1 << 14)
struct uffdio_poison {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

enum { PAGE = 4096, HUGE = 2 << 20 };
static sigjmp_buf bus;

static void on_bus(int signal)
{
	siglongjmp(bus, signal);
}

static void fail_unless(int done, const char *what)
{
	if (done)
		return;
	perror(what);
	exit(2);
}

static void read_page(const char *when, volatile char *p)
{
	if (sigsetjmp(bus, 1))
		printf("%s: SIGBUS\n", when);
	else
		printf("%s: %d\n", when, *p);
	fflush(stdout);
}

// A memfd of one huge page, mapped shared at an address where a PMD can map it.
static char *map(void)
{
	int fd = memfd_create("collapse", 0);
	char *room = mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)room + HUGE - 1) & ~(uintptr_t)(HUGE - 1));

	fail_unless(fd >= 0 && room != MAP_FAILED && !ftruncate(fd, HUGE), "memfd");
	at = mmap(at, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	fail_unless(at != MAP_FAILED, "mmap");
	return at;
}

static void dirty(void)
{
	volatile char *p = map();

	*p = 1; // a page table is there from now on
	fail_unless(!madvise((char *)p, HUGE, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	fail_unless(!madvise((char *)p, PAGE, MADV_REMOVE), "MADV_REMOVE");
	read_page("read, a huge page of the file is mapped by PTEs", p);
	*p = 42;
	read_page("stored", p);
	fail_unless(!madvise((char *)p, HUGE, MADV_COLLAPSE), "MADV_COLLAPSE");
	read_page("collapsed", p);
	// More than once: a folio that waits to be put on the LRU is passed over.
	for (int i = 0; i < 20; i++, usleep(50000))
		fail_unless(!madvise((char *)p, HUGE, MADV_PAGEOUT), "MADV_PAGEOUT");
	read_page("reclaimed", p);
}

static void poison(void)
{
	char *p = map();
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_POISON };
	struct uffdio_register r = {
		.range = { (uintptr_t)p, HUGE }, .mode = UFFDIO_REGISTER_MODE_MISSING
	};
	struct uffdio_poison poison = { .range = { (uintptr_t)p, PAGE } };

	p[PAGE] = 1; // khugepaged wants some page of the file
	fail_unless(!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &r), "userfaultfd");
	fail_unless(!ioctl(fd, UFFDIO_POISON, &poison), "UFFDIO_POISON");
	read_page("poisoned", p);
	fail_unless(!ioctl(fd, UFFDIO_UNREGISTER, &r.range), "UFFDIO_UNREGISTER");
	read_page("unregistered", p);
	fail_unless(!madvise(p, HUGE, MADV_COLLAPSE), "MADV_COLLAPSE");
	read_page("collapsed", p);
}

int main(int argc, char **argv)
{
	if (argc != 2 || (strcmp(argv[1], "dirty") && strcmp(argv[1], "poison"))) {
		fprintf(stderr, "usage: %s dirty|poison\n", argv[0]);
		return 2;
	}
	if (getpid() == 1) {
		mkdir("/sys", 0755);
		mount("sysfs", "/sys", "sysfs", 0, NULL);
	}
	int fd = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_WRONLY);
	fail_unless(fd >= 0 && write(fd, "advise", 6) == 6, "shmem_enabled");
	signal(SIGBUS, on_bus);
	*argv[1] == 'd' ? dirty() : poison();
	sleep(getpid() == 1); // before the panic that follows
	return 0;
}
