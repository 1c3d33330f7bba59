/*
 * N1: a store that soft-dirty tracking never sees, because clear_refs came while its page was being migrated.
 *
 * One thread moves 64 pages between NUMA nodes 0 and 1 for ever. The other one clears soft-dirty, stores to each
 * page and asks pagemap (bit 55) whether it was seen. When a bit is 0, the mover is stopped and the page stored to
 * once more: if the bit is still 0 then, nothing is in flight and the PTE is writable without being soft-dirty.
 * The control run does the same without a mover.
 *
 *   gcc -static -O2 -pthread -o n1 n1-soft-dirty-lost-in-migration.c && ./n1 [seconds]
 *
 * Needs CONFIG_MEM_SOFT_DIRTY and two nodes (numa=fake=2 on the kernel command line will do). It can be /init.
 * Prints "N1 control ..." and "N1 mover ..."; exit status 1 when a store was missed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 64, PAGE = 4096, SOFT_DIRTY = 55, MOVE = 2 /* MPOL_MF_MOVE */ };

static char *region;
static volatile int run, idle;
static int clear_refs_fd, pagemap_fd;

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void *mover(void *unused)
{
	void *pages[PAGES];
	int nodes[PAGES], status[PAGES], node = 0;

	for (;;) {
		if (!run) {
			idle = 1;
			usleep(20);
			continue;
		}
		idle = 0;
		node ^= 1;
		for (int i = 0; i < PAGES; i++) {
			pages[i] = region + i * PAGE;
			nodes[i] = node;
		}
		syscall(SYS_move_pages, 0, (long)PAGES, pages, nodes, status, MOVE);
	}
	return unused;
}

static void set_mover(int on)
{
	run = on;
	while (!on && !idle)
		usleep(20);
}

static void store_to_all(char value)
{
	for (int i = 0; i < PAGES; i++)
		((volatile char *)region)[i * PAGE] = value;
}

static int missed(void)
{
	uint64_t entry[PAGES];
	int n = 0;

	if (pread(pagemap_fd, entry, sizeof(entry), (uintptr_t)region / PAGE * 8) != sizeof(entry))
		fail("pagemap");
	for (int i = 0; i < PAGES; i++)
		n += !(entry[i] >> SOFT_DIRTY & 1);
	return n;
}

static long phase(const char *name, int moving, int seconds)
{
	time_t end = time(NULL) + seconds;
	long rounds = 0, lost = 0;

	for (; time(NULL) < end; rounds++) {
		set_mover(moving);
		if (pwrite(clear_refs_fd, "4", 1, 0) != 1)
			fail("clear_refs");
		store_to_all(rounds);
		if (missed()) {
			set_mover(0);
			store_to_all(~rounds);
			lost += missed();
		}
	}
	set_mover(0);
	printf("N1 %s: %ld rounds of %d stores, %ld missed\n", name, rounds, PAGES, lost);
	fflush(stdout);
	return lost;
}

int main(int argc, char **argv)
{
	int seconds = argc > 1 ? atoi(argv[1]) : 10, init = getpid() == 1;
	pthread_t thread;
	long lost;

	if (init) {
		mkdir("/proc", 0755);
		mount("proc", "/proc", "proc", 0, NULL);
		seconds = 10;
	}
	clear_refs_fd = open("/proc/self/clear_refs", O_WRONLY);
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY);
	if (clear_refs_fd < 0 || pagemap_fd < 0)
		fail("/proc/self");
	region = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED || pthread_create(&thread, NULL, mover, NULL))
		fail("start");
	madvise(region, PAGES * PAGE, MADV_NOHUGEPAGE);
	store_to_all(1);
	phase("control", 0, seconds);
	lost = phase("mover", 1, seconds);
	if (init)
		reboot(RB_POWER_OFF);
	return lost != 0;
}
