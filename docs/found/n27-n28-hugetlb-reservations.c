// N27 and N28: huge pages that were taken away or promised. Run as root (it sets the size of the pool), or as /init:
// n27-n28-hugetlb-reservations grandchild|surplus
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HUGE = 2 << 20 };
static sigjmp_buf bus;

static void on_bus(int signal)
{
	siglongjmp(bus, signal);
}

static void set(const char *name, const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/sys/vm/%s", name);
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0) {
		perror(path);
		exit(2);
	}
	close(fd);
}

static void show_pool(const char *when)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128], name[32];
	int pages;

	printf("%s:", when);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "HugePages_%31[^:]: %d", name, &pages) == 2)
			printf(" %s=%d", name, pages);
	printf("\n");
	fclose(f);
}

static void access_page(const char *who, volatile char *p, int store)
{
	if (sigsetjmp(bus, 1))
		printf("%s: SIGBUS\n", who);
	else if (store)
		*p = 1, printf("%s: stored\n", who);
	else
		printf("%s: reads %d\n", who, *p);
	fflush(stdout);
}

static char *map(int prot, int flags)
{
	char *p = mmap(NULL, HUGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	return p;
}

static void wait_for(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		exit(2);
}

// The owner stores 42, forks, and stores again: the only page there is goes from the child to the owner.
static void grandchild(void)
{
	int taken[2], gone[2];

	set("nr_hugepages", "1");
	set("nr_overcommit_hugepages", "0");
	if (pipe(taken) || pipe(gone))
		exit(2);
	char *p = map(PROT_READ | PROT_WRITE, MAP_HUGETLB);
	*p = 42;
	if (!fork()) {
		wait_for(taken[0]);
		if (!fork()) {
			wait_for(gone[0]);
			access_page("grandchild", p, 0);
			exit(0);
		}
		access_page("child", p, 0);
		wait(NULL);
		exit(0);
	}
	*p = 43;
	if (write(taken[1], "x", 1) != 1)
		exit(2);
	sleep(1);
	munmap(p, HUGE);
	if (write(gone[1], "x", 1) != 1)
		exit(2);
	wait(NULL);
}

// UFFDIO_COPY takes the promised page, cannot read its source, and gives page and promise back.
static void surplus(void)
{
	set("nr_hugepages", "0");
	set("nr_overcommit_hugepages", "1");
	char *p = map(PROT_READ | PROT_WRITE, MAP_HUGETLB);
	char *nothing = map(PROT_NONE, 0);
	show_pool("after mmap");

	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = {
		.range = { (unsigned long)p, HUGE }, .mode = UFFDIO_REGISTER_MODE_MISSING
	};
	struct uffdio_copy copy = { .dst = (unsigned long)p, .src = (unsigned long)nothing, .len = HUGE };
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &r)) {
		perror("userfaultfd");
		exit(2);
	}
	printf("UFFDIO_COPY: %s\n", ioctl(fd, UFFDIO_COPY, &copy) ? strerror(errno) : "done");
	show_pool("after UFFDIO_COPY");
	close(fd);
	set("nr_overcommit_hugepages", "0");
	access_page("owner", p, 1);
}

int main(int argc, char **argv)
{
	if (argc != 2 || (strcmp(argv[1], "grandchild") && strcmp(argv[1], "surplus"))) {
		fprintf(stderr, "usage: %s grandchild|surplus\n", argv[0]);
		return 2;
	}
	if (getpid() == 1) {
		mkdir("/proc", 0755);
		mount("proc", "/proc", "proc", 0, NULL);
	}
	signal(SIGBUS, on_bus);
	*argv[1] == 'g' ? grandchild() : surplus();
	sleep(getpid() == 1); // before the panic that follows
	return 0;
}
